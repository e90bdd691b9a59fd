"""Region methods by name: Selective Search, or the region proposal network of a trained detector.

Letters: H W height and width in pixels, N regions.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnn.data import resize
from rcnn.detectors.base import evaluating
from rcnn.detectors.options import to_mapping
from rcnn.detectors.storage import load
from rcnn.detectors.two_stage import TwoStage
from rcnn.errors import UserError, nearest
from rcnn.proposals import RegionMethod, SelectiveSearch, SelectiveSearchOptions
from rcnn.structures import ImageBatch, padded

SELECTIVE_SEARCH = "selective-search"
# Settings of what comes after the proposals.
LATER = ("pool", "box")


def region_method(
    method: str | Path, *, count: int | None = None, device: str = "auto", **settings: Any
) -> RegionMethod:
    """The region method of a name.

    Args:
        method: "selective-search", or the folder of a run or model with an RPN.
        count: the most regions that it gives; None for all.
        device: where a model runs.
        settings: of `SelectiveSearchOptions`; a model has its own and passes them over.

    Raises:
        UserError: the method or a setting is unknown, or the model has no RPN.
    """
    if str(method) == SELECTIVE_SEARCH:
        return SelectiveSearch(SelectiveSearchOptions(**settings), count=count)
    if not Path(method).exists():
        raise UserError(
            f"method '{method}' is not known, nor is it a model's folder{nearest(str(method), [SELECTIVE_SEARCH])}"
        )
    model = load(method, device=device)
    if not isinstance(model, TwoStage):
        raise UserError(f"'{method}' is a {model.system}, which proposes no regions; use selective-search")
    return NetworkRegions(model, count=count)


class NetworkRegions(RegionMethod):
    """What a model's RPN proposes; called with pixels [H, W, 3] it gives regions [N, 4], best first.

    Args:
        model: as it is now; its key is that of these weights.
        count: the most regions that it gives; None for all.
        training: whether it gives as many as it would in training, or at test.
    """

    def __init__(self, model: TwoStage, *, count: int | None = None, training: bool = False) -> None:
        self.model, self.count, self.training = model, count, training
        self._key = f"rpn-{proposing_key(model)}{'-training' if training else ''}"

    @property
    def key(self) -> str:
        """A digest of everything in the model that its proposals depend on."""
        return self._key

    def search(self, pixels: np.ndarray) -> np.ndarray:
        """All regions float32 [N, 4] of an image uint8 RGB [H, W, 3] that the model would look at, best first."""
        height, width = pixels.shape[:2]
        resized = resize(pixels, *self.model.options.image_size, rule=self.model.resize_rule)  # [3, h, w]
        _, h, w = resized.shape
        batch = torch.zeros(1, 3, padded(h), padded(w), dtype=resized.dtype)
        batch[0, :, :h, :w] = resized
        images = ImageBatch(batch, torch.tensor([[h, w]], dtype=torch.float32)).to(self.model.device)
        with evaluating(self.model), torch.inference_mode(), self.model.autocast():
            proposals = self.model.propose(images, training=self.training)
        boxes = proposals.boxes[0, proposals.valid[0]].cpu().numpy()
        limit = np.array([width, height] * 2, np.float32)
        return np.minimum(boxes * (limit / np.array([w, h] * 2, np.float32)), limit)


def proposing_key(model: TwoStage) -> str:
    """A digest of settings and weights of the part of the model that proposes: what looks at regions has no say."""
    settings = {key: value for key, value in to_mapping(model.options).items() if key not in LATER}
    digest = hashlib.blake2b(json.dumps([model.system, settings, model.precision]).encode(), digest_size=8)
    for module in model.proposing:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
