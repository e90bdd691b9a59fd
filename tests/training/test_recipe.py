from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data import Augmentation
from rcnn.errors import UserError
from rcnn.training import reading, toml
from rcnn.training.recipe import differences, resolve

FASTER = {"system": "faster-rcnn/resnet18-fpn", "data": {"path": "somewhere"}}


def words(text):
    """A `--set` word as a layer."""
    return reading.parse_assignment(text)


def test_later_layers_win_over_the_preset():
    recipe = resolve([{**FASTER, "recipe": "classic"}, {"train": {"momentum": 0.8}}, words("train.momentum=0.7")])
    assert recipe.train.momentum == 0.7
    assert (recipe.train.lr, recipe.train.weight_decay, recipe.train.bias_lr, recipe.train.bias_decay) == (
        0.001,
        0.0005,
        2.0,
        False,
    )
    assert recipe.train.schedule == "step"
    assert recipe.train.milestones == (0.75,)


def test_each_recipe_brings_its_augmentation_and_digits_are_never_mirrored():
    assert resolve([{**FASTER, "recipe": "classic"}]).augment == Augmentation.classic()
    assert resolve([FASTER]).augment == Augmentation.modern()
    assert resolve([{**FASTER, "data": {"path": "digits"}}]).augment.flip == 0
    assert resolve([{**FASTER, "data": {"path": "digits"}}, words("augment.flip=0.5")]).augment.flip == 0.5


def test_steps_put_lower_epochs_out_of_force_and_the_other_way_round():
    assert (resolve([FASTER]).train.epochs, resolve([FASTER]).train.steps) == (12.0, None)
    recipe = resolve([FASTER, {"train": {"steps": 50}}])
    assert (recipe.train.epochs, recipe.train.steps) == (None, 50)
    recipe = resolve([FASTER, {"train": {"steps": 50}}, {"train": {"epochs": 3}}])
    assert (recipe.train.epochs, recipe.train.steps) == (3.0, None)
    with pytest.raises(UserError, match="expected one of the two"):
        resolve([FASTER, {"train": {"steps": 50, "epochs": 3}}])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.epoch=3", "train.epoch = 3: unknown setting; did you mean 'epochs'?"),
        ("augment.flipp=0.1", "augment.flipp = 0.1: unknown setting; did you mean 'flip'?"),
        ("epochs=3", "epochs = 3: unknown setting; did you mean 'train.epochs'?"),
        ("rpn.nms=1", "rpn.nms = 1: unknown setting; did you mean 'model.rpn.nms'?"),
        ("image_size=[9, 9]", "image_size = [9, 9]: unknown setting; did you mean 'model.image_size'?"),
        ("sistem=a", "sistem = 'a': unknown setting; did you mean 'system'?"),
        ("train.lr=fast", "train.lr = 'fast': expected a number"),
        ("train.lr=-1", "train.lr = -1.0: expected more than 0"),
        ("train.lr=nan", "train.lr = nan: expected more than 0"),
        ("train.momentum=1", "train.momentum = 1.0: expected at least 0 and less than 1"),
        ("train.steps=2.5", "train.steps = 2.5: expected a whole number or 'none'"),
        ("train.schedule=steps", "train.schedule = 'steps': expected one of 'step', 'cosine', 'constant'"),
        ("train=3", "train = 3: expected a table of settings, such as [train] in a file"),
        ("recipe=moderm", "there is no recipe 'moderm'; did you mean 'modern'?"),
        ("scheme=alternate", "faster-rcnn has no scheme 'alternate'; did you mean 'alternating'?"),
        ("system=fester-rcnn/resnet18", "unknown system 'fester-rcnn' in 'fester-rcnn/resnet18'; did you mean"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence_with_the_nearest_right_thing(word, sentence):
    with pytest.raises(UserError) as error:
        resolve([FASTER, words(word)])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_without_system_or_data_is_refused():
    with pytest.raises(UserError, match="no system was named"):
        resolve([{"data": {"path": "digits"}}])
    with pytest.raises(UserError, match="no data was named"):
        resolve([{"system": FASTER["system"]}])


@pytest.mark.parametrize("text", ["train.lr", "=3", "a b=3"])
def test_a_word_that_is_no_assignment_is_refused(text):
    with pytest.raises(UserError, match="--set"):
        words(text)


def test_values_of_assignments_are_toml_and_bare_words_are_texts():
    assert words("model.rpn.nms=0.6") == {"model": {"rpn": {"nms": 0.6}}}
    assert words("train.milestones=[0.5, 0.75]") == {"train": {"milestones": [0.5, 0.75]}}
    assert words("train.bias_decay=true") == {"train": {"bias_decay": True}}
    assert words("train.schedule=step") == {"train": {"schedule": "step"}}
    assert words("weights=../w.pth") == {"weights": "../w.pth"}


def test_a_recipe_read_back_from_its_text_is_the_same(tmp_path):
    recipe = resolve([FASTER, words("train.steps=7"), words('train.lr_multipliers=[["backbone.*", 0.1]]')])
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert resolve([reading.read_config(tmp_path / "recipe.toml")]) == recipe


def test_toml_and_yaml_say_the_same(tmp_path):
    (tmp_path / "a.toml").write_text("[train]\nlr = 1e-4\nmilestones = [0.5]\n")
    (tmp_path / "a.yaml").write_text("train:\n  lr: 1e-4\n  milestones: [0.5]\n")
    assert reading.read_config(tmp_path / "a.toml") == reading.read_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.toml", "train = [", "is not valid TOML"),
        ("a.yaml", "train: [", "is not valid YAML"),
        ("a.yaml", "3", "holds no settings"),
        ("a.json", "{}", "expected a name that ends in .toml"),
    ],
)
def test_a_broken_configuration_file_is_told_in_one_sentence(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        reading.read_config(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_configuration_file_is_told(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        reading.read_config(tmp_path / "a.toml")


def test_differences_name_the_keys_that_changed():
    assert differences(resolve([FASTER]), resolve([FASTER])) == []
    changed = differences(resolve([FASTER]), resolve([FASTER, words("train.seed=4")]))
    assert changed == [("train.seed", 0, 4)]


plain = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False)
tables = st.recursive(
    st.dictionaries(st.text(), plain | st.lists(plain | st.lists(plain))),
    lambda inner: st.dictionaries(st.text(), inner | st.lists(inner, min_size=1) | plain),
    max_leaves=8,
)


@given(tables)
def test_toml_that_was_written_reads_back_the_same(table):
    assert tomllib.loads(toml.dumps(table)) == table


def test_nothing_is_written_as_the_word_none():
    assert tomllib.loads(toml.dumps({"steps": None, "pair": (1, 2)})) == {"steps": "none", "pair": [1, 2]}
