"""Region methods by name: Selective Search, or the region proposal network of a trained detector.

Letters: H W height and width in pixels, N regions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnn.data import resize
from rcnn.detectors.base import Detector, evaluating
from rcnn.detectors.storage import DESCRIPTION, WEIGHTS, find, load
from rcnn.errors import UserError, nearest
from rcnn.proposals import RegionMethod, SelectiveSearch, SelectiveSearchOptions
from rcnn.structures import ImageBatch, padded

SELECTIVE_SEARCH = "selective-search"


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
    return NetworkRegions(method, count=count, device=device)


class NetworkRegions(RegionMethod):
    """What the RPN of a run or model folder proposes; called with pixels [H, W, 3] it gives regions [N, 4], best first.

    Raises:
        UserError: no model there, or one without an RPN.
    """

    def __init__(self, folder: str | Path, *, count: int | None = None, device: str = "auto") -> None:
        self.count = count
        self.model: Detector = load(folder, device=device)
        if not hasattr(self.model, "rpn"):
            raise UserError(f"'{folder}' is a {self.model.system}, which proposes no regions; use selective-search")
        place = find(folder)
        digest = hashlib.sha256((place / DESCRIPTION).read_bytes())
        with (place / WEIGHTS).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        self._key = f"rpn-{digest.hexdigest()[:16]}"

    @property
    def key(self) -> str:
        """A digest of the model's description and weights."""
        return self._key

    def search(self, pixels: np.ndarray) -> np.ndarray:
        """All regions float32 [N, 4] of an image uint8 RGB [H, W, 3] that the model would look at, best first."""
        height, width = pixels.shape[:2]
        resized = resize(pixels, *self.model.options.image_size)  # [3, h, w]
        _, h, w = resized.shape
        batch = torch.zeros(1, 3, padded(h), padded(w), dtype=torch.uint8)
        batch[0, :, :h, :w] = resized
        images = ImageBatch(batch, torch.tensor([[h, w]], dtype=torch.float32)).to(self.model.device)
        with evaluating(self.model), torch.inference_mode(), self.model.autocast():
            output = self.model.rpn(self.model.backbone(images), images)  # type: ignore[operator]
            proposals = self.model.rpn.propose(output, images, training=False)  # type: ignore[union-attr, operator]
        boxes = proposals.boxes[0, proposals.valid[0]].cpu().numpy()
        limit = np.array([width, height] * 2, np.float32)
        return np.minimum(boxes * (limit / np.array([w, h] * 2, np.float32)), limit)
