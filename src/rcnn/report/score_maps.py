"""What R-FCN's maps say of one region, as in figures 3 and 4 of its paper: the k² maps of a class, each with the bin
that reads it, and the bins' votes.

Letters: k pooled side, K classes, H W height and width of the image, h w those of the map inside the padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from rcnn.data import resize
from rcnn.data.pictures import Mark, class_colour, draw_marks, picture_grid
from rcnn.detectors import Detector, evaluating
from rcnn.detectors.base import Source, pixels_of
from rcnn.detectors.rfcn import RFCN
from rcnn.errors import UserError
from rcnn.structures import ImageBatch, padded

POSITIVE, NEGATIVE = np.array([214.0, 39, 40]), np.array([31.0, 119, 180])


@dataclass(frozen=True)
class Votes:
    """How the bins of a region score it as one class.

    Attributes:
        pixels: [H, W, 3] uint8 RGB, the image.
        box: x1 y1 x2 y2 in its pixels.
        name: the class's.
        maps: [k, k, h, w] float32, the class's map of each bin, over the whole image.
        bins: [k, k] float32, what each bin reads from its own.
        logit: their mean, the class's logit.
        score: its probability beside the other classes and background.
    """

    pixels: np.ndarray
    box: tuple[float, float, float, float]
    name: str
    maps: np.ndarray
    bins: np.ndarray
    logit: float
    score: float


def votes(model: Detector, image: Source, box: Sequence[float], label: int) -> Votes:
    """How an R-FCN's maps score the region `box` (pixels of the image) as class `label`.

    Raises:
        UserError: another system, no such class, or a box without area.
    """
    if not isinstance(model, RFCN):
        raise UserError(f"{model.system} has no position-sensitive maps: expected an R-FCN, such as rfcn/resnet18")
    if not 0 <= label < len(model.classes):
        raise UserError(f"class {label}: the model has 0 to {len(model.classes) - 1}")
    x1, y1, x2, y2 = (float(side) for side in box)
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        raise UserError(f"box {[x1, y1, x2, y2]}: expected x1 < x2 and y1 < y2")
    _, pixels = pixels_of(image)
    batch = _alone(resize(pixels, *model.detection_size, model.resize_rule))
    (height, width), head = batch.sizes[0].tolist(), model.box_head
    scale = torch.tensor([width / pixels.shape[1], height / pixels.shape[0]]).repeat(2)
    region = (torch.tensor([x1, y1, x2, y2]) * scale)[None, None].to(model.device)
    with evaluating(model), torch.inference_mode(), model.autocast():
        maps = head.maps(model.backbone(batch.to(model.device))[-1])
        pooled = head.pool(maps.scores, region, torch.ones_like(region[..., 0], dtype=torch.bool))[0, 0]  # [K+1, k, k]
    logits = pooled.mean((-2, -1)).cpu()
    size = pooled.shape[-1]
    own = maps.scores[0].unflatten(0, (size, size, -1))[:, :, label]  # [k, k, …]
    own = own[..., : math.ceil(height / head.pool.stride), : math.ceil(width / head.pool.stride)]
    return Votes(
        pixels,
        (x1, y1, x2, y2),
        model.classes[label],
        own.cpu().numpy(),
        pooled[label].cpu().numpy(),
        float(logits[label]),
        float(logits.softmax(0)[label]),
    )


def draw_votes(found: Votes, *, cell: tuple[int, int] = (240, 180)) -> Image.Image:
    """The figure: the image with its region first, then row by row each bin's map (red for, blue against the class).

    Args:
        found: as of `votes`.
        cell: width and height in pixels of one picture of the figure.
    """
    size = len(found.bins)
    label = Mark(found.box, f"{found.name}  {found.score:.2f}", class_colour(0))
    panels = [draw_marks(found.pixels, [label])]
    panels += [Image.new("RGB", panels[0].size, "white")] * (size - 1)
    strongest = float(np.abs(found.maps).max()) or 1.0
    grey = np.asarray(Image.fromarray(found.pixels).convert("L").convert("RGB"), np.float64)
    x1, y1, x2, y2 = found.box
    for i in range(size):
        for j in range(size):
            bin_box = (
                x1 + (x2 - x1) * j / size,
                y1 + (y2 - y1) * i / size,
                x1 + (x2 - x1) * (j + 1) / size,
                y1 + (y2 - y1) * (i + 1) / size,
            )
            marks = [
                Mark(found.box, "", (90, 90, 90), dashed=True),
                Mark(bin_box, f"{found.bins[i, j]:+.2f}", class_colour(0 if found.bins[i, j] > 0 else 1)),
            ]
            panels.append(draw_marks(_heat(found.maps[i, j] / strongest, grey), marks))
    return picture_grid(panels, columns=size, cell=cell)


def _heat(values: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Values [h, w] in [-1, 1] over a grey picture [H, W, 3], as uint8: red above 0, blue below."""
    height, width = ground.shape[:2]
    spread = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.asarray(spread, np.float64)[..., None]
    colour = np.where(strength > 0, POSITIVE, NEGATIVE)
    share = 0.85 * np.abs(strength)
    return ((1 - share) * (0.5 * ground + 110) + share * colour).clip(0, 255).astype(np.uint8)


def _alone(resized: torch.Tensor) -> ImageBatch:
    """A batch of the one image [3, h, w], padded."""
    _, height, width = resized.shape
    canvas = resized.new_zeros((1, 3, padded(height), padded(width)))
    canvas[0, :, :height, :width] = resized
    return ImageBatch(canvas, torch.tensor([[height, width]], dtype=torch.float32))
