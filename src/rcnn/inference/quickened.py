"""A model's fast form: a copy for predictions in which layers are fused, made anew when the model has changed."""

from __future__ import annotations

import copy
import functools
import logging
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from rcnn import detectors
from rcnn.backbones import Backbone
from rcnn.backbones.resnet import MeanPool
from rcnn.detectors import Model
from rcnn.heads import BoxHead
from rcnn.heads.mask import MaskHead
from rcnn.inference.fusing import Maps, fused
from rcnn.inference.heads import FusedRPNHead
from rcnn.inference.layers import FusedLinear, works
from rcnn.proposals import RPN

AnyModel = TypeVar("AnyModel", bound=Model[Any])

log = logging.getLogger(__name__)


class Quickened:
    """Gives a model's fast form for predictions on a CPU, and the model itself where there is none."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()
        self._form: Model[Any] | None = None

    def __call__(self, model: AnyModel) -> AnyModel:
        """The form that predicts as `model` does, by its weights of this moment."""
        dtype = torch.bfloat16 if model.precision == "bf16" else torch.float32
        if model.device.type != "cpu" or torch.compiler.is_compiling() or not works(dtype):
            return model
        tensors = (*model.parameters(), *model.buffers())
        # Those of a model that was made in inference mode count no versions.
        state = (dtype, *((id(t), 0 if t.is_inference() else t._version) for t in tensors))
        if self._form is None or state != self._state:
            self._state, self._form = state, fast_form(model, dtype)
        return self._form  # type: ignore[return-value]

    def __deepcopy__(self, memo: dict[int, Any]) -> Quickened:
        return Quickened()  # the copy makes a form of its own


def quicken(model: AnyModel) -> AnyModel:
    """Lets a model predict by its fast form from now on; returns the model, which may still be trained and saved.

    In float32 the detections stay the same but for rounding. The form takes about as much memory again as the weights,
    and is made at the first prediction after they have changed.
    """
    model.quickened = Quickened()
    return model


@functools.wraps(detectors.create)
def create(*args: Any, **options: Any) -> Model[Any]:
    """As `detectors.create`; the model predicts by its fast form, as a loaded one does."""
    return quicken(detectors.create(*args, **options))


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> Model[Any]:
    """The model of a run folder (its best) or a model folder, ready to predict by its fast form.

    Args:
        path: the folder.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (bf16 on GPUs that have it, else fp32), "fp32" or "bf16".

    Raises:
        UserError: no model there, or one that is damaged or does not fit its description.
    """
    return quicken(detectors.load(path, device, precision))


@torch.no_grad()
def fast_form(model: AnyModel, dtype: torch.dtype) -> AnyModel:
    """A copy of a model on the CPU, only for predictions, with fused layers of type `dtype`.

    What is not known here stays as it is and shares its weights with the model. A head's last layers compute in
    float32 whatever the type.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    form = copy.deepcopy(model, shared).eval()
    form.quickened = None
    for module in list(form.modules()):
        if isinstance(module, Backbone):
            module.fuse(_fused(Maps(module), dtype))
            if module.head is not None:
                module.head = _fused(module.head, dtype)
        elif isinstance(module, RPN):
            module.head = FusedRPNHead(module.head, dtype)  # type: ignore[assignment]
        elif isinstance(module, BoxHead):
            module.trunk = _fused_trunk(module.trunk, dtype)
            module.cls_score = FusedLinear(module.cls_score)  # type: ignore[assignment]
            if module.bbox_pred is not None:
                module.bbox_pred = FusedLinear(module.bbox_pred)  # type: ignore[assignment]
        elif isinstance(module, MaskHead):
            module.layers = _fused(module.layers, dtype)  # type: ignore[assignment]
    return form


def _fused_trunk(trunk: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A box head's trunk fused; the mean at the end of a backbone's own layers stays apart, for masks leave it out."""
    if isinstance(trunk, nn.Sequential) and isinstance(trunk[-1], MeanPool):
        return nn.Sequential(_fused(trunk[:-1], dtype), trunk[-1])
    return _fused(trunk, dtype)


def _fused(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module fused, or as it is where it cannot be traced."""
    try:
        return fused(module, dtype)
    except Exception as error:  # a tracer fails in as many ways as there are modules
        log.debug("%s is not fused: %s", type(module).__name__, error)
        return module.eval()
