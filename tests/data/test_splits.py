from __future__ import annotations

import numpy as np
import pytest

from rcnn.data.index import IndexBuilder
from rcnn.data.splits import available, choose
from rcnn.errors import UserError


def index_of(**members: range):
    builder = IndexBuilder(["x"])
    for i in range(100):
        builder.image(f"{i:03}.jpg", f"{i:03}.jpg", (10, 10), "list")
    builder.members = {split: list(rows) for split, rows in members.items()}
    return builder.build()


def test_a_split_that_is_there_is_taken_as_it_is():
    index = index_of(train=range(60), val=range(60, 80), test=range(80, 100))
    for split, rows in (("train", range(60)), ("val", range(60, 80)), ("valid", range(60, 80)), (None, range(100))):
        _, found, note = choose(index, split, "data")
        assert found.tolist() == list(rows)
        assert note == ""


def test_test_stands_in_for_val():
    index = index_of(train=range(60), test=range(80, 100))
    name, rows, note = choose(index, "val", "data")
    assert (name, rows.tolist()) == ("val", list(range(80, 100)))
    assert "test is used instead" in note
    assert len(choose(index, "train", "data")[1]) == 60


@pytest.mark.parametrize("name", ["train", "trainval", "all", "default"])
def test_else_about_every_fifth_training_image_is_held_out(name):
    index = index_of(**{name: range(100)})
    _, train, note = choose(index, "train", "data")
    _, val, same = choose(index, "val", "data")
    assert sorted([*train, *val]) == list(range(100))
    assert 10 <= len(val) <= 30
    assert note == same
    assert f"({len(val)} of 100" in note


def test_what_is_held_out_hangs_on_each_name_alone():
    whole = set(choose(index_of(train=range(100)), "val", "data")[1].tolist())
    half = set(choose(index_of(train=range(50)), "val", "data")[1].tolist())
    assert half == {i for i in whole if i < 50}


def test_trainval_loses_val_before_it_is_trained_on():
    index = index_of(trainval=range(100), val=range(50, 100))
    assert choose(index, "train", "data")[1].tolist() == list(range(50))


def test_two_images_give_one_to_each():
    for pair in ([0, 1], [5, 9], [17, 44]):
        index = index_of(train=pair)
        assert len(choose(index, "train", "d")[1]) == len(choose(index, "val", "d")[1]) == 1


def test_an_unknown_split_is_refused():
    index = index_of(train=range(50), val=range(50, 100))
    with pytest.raises(UserError, match="no split 'test'; known are train, val"):
        choose(index, "test", "data")
    with pytest.raises(UserError, match="did you mean 'train'"):
        choose(index, "trian", "data")


def test_an_empty_split_is_refused():
    with pytest.raises(UserError, match="split 'val' of data 'd' has no images"):
        choose(index_of(train=range(50), val=range(0)), "val", "d")


def test_splits_come_in_the_usual_order():
    index = index_of(zebra=range(3), test=range(3), apple=range(3), train=range(3))
    assert available(index) == ("train", "test", "apple", "zebra")
    assert np.array_equal(choose(index, "all", "d")[1], [0, 1, 2])
