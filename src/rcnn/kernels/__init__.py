"""The operators that plain tensor code would make slow: NMS, RoI pooling of each kind, matching, warping, all batched.

Selective Search's steps, from `convert` to `group`, are kernels too, and so is `descend`, which fits SVMs; these take
numpy arrays.

Each operator is one file here (its meaning, its torch registration and its gradient), and the same function in up to
four forms: `reference/` is plain torch, short and slow, and defines the answer; `cpu/` is numba; `cuda/` is Triton;
`torchvision_ops.py` uses torchvision's compiled operators, where numba or Triton is missing. `forms.form` chooses. All
are registered with torch, so that `torch.compile` and `torch.export` take them as they are.
"""

from __future__ import annotations

from rcnn.kernels.colour import bin_numbers, convert, smooth
from rcnn.kernels.conv3x3 import CHANNELS, conv3x3
from rcnn.kernels.dual_descent import Descent, descend
from rcnn.kernels.forms import array_form, form
from rcnn.kernels.grouping import Histograms, group, histograms
from rcnn.kernels.matching import match
from rcnn.kernels.nms import nms
from rcnn.kernels.paste import paste
from rcnn.kernels.ps_roi_pool import from_caffe_order, ps_roi_pool, to_caffe_order
from rcnn.kernels.roi_align import roi_align
from rcnn.kernels.roi_pool import roi_pool
from rcnn.kernels.roi_warp import roi_warp
from rcnn.kernels.segmentation import Edges, Segmentation, segment, sorted_edges
from rcnn.kernels.warp import warp
from rcnn.kernels.winograd import winograd_convolve, winograd_weights

__all__ = [
    "nms",
    "roi_align",
    "roi_pool",
    "ps_roi_pool",
    "from_caffe_order",
    "to_caffe_order",
    "roi_warp",
    "match",
    "warp",
    "Edges",
    "Histograms",
    "Segmentation",
    "convert",
    "smooth",
    "bin_numbers",
    "sorted_edges",
    "segment",
    "histograms",
    "group",
    "paste",
    "CHANNELS",
    "conv3x3",
    "winograd_convolve",
    "winograd_weights",
    "Descent",
    "descend",
    "array_form",
    "form",
]
