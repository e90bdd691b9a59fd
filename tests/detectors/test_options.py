import contextlib
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.detectors import SYSTEMS, to_mapping, updated
from rcnn.detectors.faster_rcnn import FasterRCNNOptions
from rcnn.errors import UserError


@dataclass(frozen=True)
class Inner:
    nms: float | None = 0.7
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Outer:
    size: int = 3
    flag: bool = True
    many: tuple[tuple[float, ...], ...] = ((1.0,),)
    inner: Inner = field(default_factory=Inner)


def test_nested_changes_reach_their_place_and_nothing_else():
    changed = updated(Outer(), {"inner": {"nms": 0.5, "pair": [3, 4]}, "many": [[1, 2], [3]]})
    assert changed == Outer(many=((1.0, 2.0), (3.0,)), inner=Inner(nms=0.5, pair=(3, 4)))


@pytest.mark.parametrize("none", [None, "none", "None"])
def test_none_can_be_said_in_toml(none):
    assert updated(Outer(), {"inner": {"nms": none}}).inner.nms is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sise": 1}, r"model\.sise = 1: unknown setting; did you mean 'size'\?"),
        ({"inner": {"nsm": 1}}, r"model\.inner\.nsm = 1: unknown setting; did you mean 'nms'\?"),
        ({"size": "big"}, r"model\.size = 'big': expected a whole number"),
        ({"size": True}, r"model\.size = True: expected a whole number"),
        ({"size": 2.5}, r"model\.size = 2\.5: expected a whole number"),
        ({"flag": 1}, r"model\.flag = 1: expected true or false"),
        ({"inner": 3}, r"model\.inner = 3: expected a table of settings, such as model\.inner\.nms"),
        ({"inner": {"kind": "c"}}, r"model\.inner\.kind = 'c': expected one of 'a', 'b'"),
        ({"inner": {"pair": [1]}}, r"model\.inner\.pair = \[1\]: expected a list of 2, each a whole number"),
        ({"inner": {"nms": "low"}}, r"model\.inner\.nms = 'low': expected a number or 'none'"),
        ({"many": [1.0]}, r"model\.many = \[1\.0\]: expected a list, each a list, each a number"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        updated(Outer(), changes)


@pytest.mark.parametrize("strides", [(16,), (4, 8, 16, 32, 64)])
@pytest.mark.parametrize("recipe", ["classic", "modern"])
def test_every_preset_survives_json(recipe, strides):
    preset = SYSTEMS["faster-rcnn"].presets[recipe](strides)
    assert updated(FasterRCNNOptions(), json.loads(json.dumps(to_mapping(preset)))) == preset


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_whatever_is_given_either_fits_or_is_refused(value):
    for name in ("size", "many", "inner"):
        with contextlib.suppress(UserError):
            updated(Outer(), {name: value})


def test_the_classic_preset_has_the_papers_numbers():
    # Ren et al. 2015 and SPEC section 5, at stride 16.
    options = SYSTEMS["faster-rcnn"].presets["classic"]((16,))
    assert options.image_size == (600, 1000)
    assert options.anchors.sizes == ((128.0, 256.0, 512.0),)
    assert options.anchors.ratios == (0.5, 1.0, 2.0)
    assert (options.rpn.positive, options.rpn.negative, options.rpn.samples, options.rpn.positive_fraction) == (
        0.7,
        0.3,
        256,
        0.5,
    )
    assert (options.rpn.box_weight, options.rpn.box_normaliser, options.rpn.loss_beta) == (10.0, "positions", 1.0)
    assert (options.rpn.pre_nms, options.rpn.post_nms, options.rpn.nms) == ((12000, 6000), (2000, 300), 0.7)
    assert options.rpn.border == 0.0
    assert options.rpn.objectness == "softmax"
    assert options.pool.kind == "pool"
    assert (options.box.samples, options.box.positive_fraction, options.box.positive, options.box.negative) == (
        128,
        0.25,
        0.5,
        (0.0, 0.5),
    )
    assert options.box.coder_weights == (10.0, 10.0, 5.0, 5.0)
    assert (options.box.score, options.box.nms, options.box.detections) == (0.05, 0.3, 100)
    assert options.box.init_std == (0.01, 0.001)


def test_the_modern_preset_on_a_pyramid_has_one_anchor_size_a_level():
    # Lin et al. 2017 (FPN), section 4.1, and the numbers after "with FPN" in SPEC section 5.
    options = SYSTEMS["faster-rcnn"].presets["modern"]((4, 8, 16, 32, 64))
    assert options.anchors.sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert (options.rpn.pre_nms, options.rpn.post_nms) == ((2000, 1000), (2000, 1000))
    assert (options.box.samples, options.box.hidden, options.box.nms, options.box.detections) == (
        512,
        (1024, 1024),
        0.5,
        100,
    )
