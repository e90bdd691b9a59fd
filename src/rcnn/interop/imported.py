"""What a reader of another toolkit's file hands over, and the model that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rcnn.backbones.norm import uncounted
from rcnn.detectors import Model, create
from rcnn.errors import RCNNError


@dataclass(frozen=True)
class Asked:
    """What the user says of a file because its keys cannot.

    Attributes:
        model: the publisher's name of the model; "" to recognise it.
        bn_eps: of frozen batch norm; None for what the publisher's model has.
        classes: names of the K classes without background, in the file's order; None for the published ones.
    """

    model: str = ""
    bn_eps: float | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Imported:
    """A model in this library's terms.

    Attributes:
        system: "SYSTEM/BACKBONE".
        classes: names of the K classes.
        settings: what differs from the modern preset: every convention that the weights were trained under.
        state: all tensors by the names of `Model.state_dict`.
        notes: sentences on what was assumed or left out.
    """

    system: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]
    notes: list[str] = field(default_factory=list)


def built(imported: Imported) -> Model[Any]:
    """The model, in evaluation mode.

    Raises:
        RCNNError: the reader left out a tensor, has one too many, or one of another shape.
    """
    model = create(imported.system, imported.classes, settings=imported.settings)
    own = model.state_dict()
    wrong = sorted((own.keys() ^ imported.state.keys()) - uncounted(model)) + [
        name for name, value in own.items() if name in imported.state and imported.state[name].shape != value.shape
    ]
    if wrong:
        raise RCNNError(
            f"{len(wrong)} tensors of '{imported.system}' were not imported as they are, first '{wrong[0]}'"
        )
    model.load_state_dict(dict(imported.state))
    return model.eval()
