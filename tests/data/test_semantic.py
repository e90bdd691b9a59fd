"""Label maps: read by value and by colour, resized with their images, converted, and refused in one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rcnn.data import Augmentation, TrainLoader, open_dataset
from rcnn.data.checks import check
from rcnn.data.convert import convert
from rcnn.data.info import summarise
from rcnn.data.loader import eval_batches
from rcnn.data.segments import Frame
from rcnn.data.semantic import VOC_CLASSES, VOID, Coding, in_file, in_frame, palette
from rcnn.errors import UserError

SIZE = (48, 64)
# Of an image's pixels by the value of its map: far apart, so that what blends two classes is like neither.
RED = np.arange(256).astype(np.uint8) * 60
RED[VOID] = 255


def draw_map(seed: int = 0) -> np.ndarray:
    """Values of a file: background, the two classes, and a void line."""
    values = np.zeros(SIZE, np.uint8)
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 20, 2)
    values[y : y + 20, x : x + 24] = 1
    values[30:44, 40:60] = 2
    values[24:29] = VOID
    return values


def write_pair(root: Path, split: str, name: str, values: np.ndarray, mode: str = "P") -> None:
    """An image whose red channel says the class, and its map."""
    pixels = np.zeros((*values.shape, 3), np.uint8)
    pixels[..., 0] = RED[values]
    maps = Image.fromarray(values, mode="P")
    maps.putpalette(palette().tobytes())
    for folder, picture in (("images", Image.fromarray(pixels)), ("masks", maps.convert(mode))):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
        picture.save(root / folder / split / f"{name}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training images and one to validate on, with label maps."""
    for k in range(3):
        write_pair(tmp_path / "data", "train", f"t{k}", draw_map(k))
    write_pair(tmp_path / "data", "val", "v0", draw_map(3))
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "data"


def expected(values: np.ndarray, classes: int = 2) -> np.ndarray:
    """Pixel by pixel what a file's values mean in memory."""
    found = np.zeros_like(values)
    for place, value in np.ndenumerate(values):
        found[place] = VOID if value == VOID else classes if value == 0 else value - 1
    return found


def test_a_folder_with_maps_is_recognised_and_read(folder: Path):
    dataset = open_dataset(folder, "train", semantic=True)
    assert (dataset.format, dataset.classes, len(dataset), dataset.splits) == (
        "label maps",
        ("cat", "dog"),
        3,
        ("train", "val"),
    )
    for k in range(3):
        np.testing.assert_array_equal(dataset.truth(k).semantic, expected(draw_map(k)))
    assert open_dataset(folder, "train").truth(0).semantic is None, "who does not ask does not wait for it"


def test_colours_say_the_same_as_values(folder: Path):
    values = draw_map(1)
    write_pair(folder, "train", "t1", values, mode="RGB")
    np.testing.assert_array_equal(open_dataset(folder, "train", semantic=True).label_map(1), expected(values))
    (folder / "classes.txt").write_text("background 9 9 9\ncat 10 20 30\nvoid 1 1 1\nwild dog 40 50 60\n")
    colours = np.array([(9, 9, 9), (10, 20, 30), (40, 50, 60), *[(1, 1, 1)] * 253], np.uint8)
    for k in range(3):
        Image.fromarray(colours[draw_map(k)]).save(folder / "masks" / "train" / f"t{k}.png")
    dataset = open_dataset(folder, "train", semantic=True)
    assert dataset.classes == ("cat", "wild dog")
    np.testing.assert_array_equal(dataset.label_map(2), expected(draw_map(2)))


def test_a_class_that_is_not_chosen_is_background(folder: Path):
    dataset = open_dataset(folder, "train", classes=["dog"], semantic=True)
    found, whole = dataset.label_map(0), expected(draw_map(0))
    np.testing.assert_array_equal(found == 0, whole == 1)
    np.testing.assert_array_equal(found == 1, (whole == 0) | (whole == 2))
    np.testing.assert_array_equal(found == VOID, whole == VOID)


def test_voc_maps_go_by_vocs_own_order_where_the_classes_are_vocs(make):
    root = make("voc")
    (root / "SegmentationClass").mkdir()
    values = np.zeros((80, 100), np.uint8)
    values[:10], values[10:20], values[20] = VOC_CLASSES.index("cat") + 1, VOC_CLASSES.index("dog") + 1, VOID
    Image.fromarray(values).save(root / "SegmentationClass" / "a.png")
    dataset = open_dataset(root, "train", semantic=True)
    assert dataset.classes == ("cat", "dog")
    assert "left out because they have no label map: 1 of 2" in dataset.note
    found = dataset.truth(0).semantic
    assert [found[row, 0] for row in (0, 10, 20, 30)] == [0, 1, VOID, 2]


def test_digits_have_maps_of_their_own():
    dataset = open_dataset("digits", "val", semantic=True)
    for i in range(5):
        truth = dataset.truth(i)
        assert set(np.unique(truth.semantic)) - {10} <= set(truth.labels.tolist())
        for box, label in zip(truth.boxes.astype(int), truth.labels, strict=True):
            assert (truth.semantic[box[1] : box[3], box[0] : box[2]] == label).any()


def test_a_worker_process_has_the_maps_too(folder: Path):
    for dataset in (open_dataset(folder, "val", semantic=True), open_dataset("digits", "val", semantic=True)):
        again = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(again.truth(0).semantic, dataset.truth(0).semantic)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation.none(),
        Augmentation(flip=1.0),
        Augmentation(flip=0.0, vertical_flip=1.0),
        Augmentation(flip=1.0, zoom_out=1.0),
        Augmentation(flip=0.5, scale=(0.7, 1.4), zoom_out=0.5),
    ],
)
def test_whatever_moves_pixels_moves_their_classes(folder: Path, augmentation: Augmentation):
    """The image's red channel is its map: wherever it is not blended with another class, the map says the same."""
    dataset = open_dataset(folder, "train", semantic=True)
    loader = TrainLoader(dataset, short=96, long=128, batch_size=3, augmentation=augmentation, seed=3, workers=0)
    batches = loader.batches()
    for _ in range(4):
        batch = next(batches)
        red, maps = batch.images.pixels[:, 0].numpy(), batch.truth.semantic.numpy()
        assert maps.shape == red.shape
        sure = 0
        for value, label in ((0, 2), (1, 0), (2, 1), (VOID, VOID)):
            own = (red == RED[value]) & batch.images.inside[:, 0].numpy() & (batch.images.pixels[:, 1].numpy() == 0)
            at = maps[own]
            assert (at == label).mean() > 0.93, f"value {value}"  # but for what interpolation blends to the same grey
            sure += own.sum()
        assert sure > red.size // 5
        assert (maps[~batch.images.inside[:, 0].numpy()] == VOID).all(), "padding is neither learnt nor judged"


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.3, 3),
    shift=st.integers(-20, 20),
    mirror=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_frame_takes_the_class_that_each_centre_lies_on(scale, shift, mirror, size):
    labels = np.random.default_rng(0).integers(0, 5, (13, 17)).astype(np.uint8)
    frame = Frame((13, 17), (-scale if mirror else scale, scale), (shift + 17 * mirror, -shift / 2))
    found = in_frame(labels, frame, size)
    for y in range(size[0]):
        for x in range(size[1]):
            column = int(np.floor(frame.scale[0] * (x + 0.5) + frame.shift[0]))
            row = int(np.floor(frame.scale[1] * (y + 0.5) + frame.shift[1]))
            inside = 0 <= row < 13 and 0 <= column < 17
            assert found[y, x] == (labels[row, column] if inside else VOID)


def test_a_canvas_around_a_crop_is_void():
    labels = np.ones((20, 30), np.uint8)
    frame = Frame((20, 30)).cropped(5, 4, 10, 8).moved(-3, -2)  # ten by eight pixels of it, three from the left
    found = in_frame(labels, frame, (12, 16))
    wanted = np.full((12, 16), VOID, np.uint8)
    wanted[2:10, 3:13] = 1
    np.testing.assert_array_equal(found, wanted)


def test_validation_takes_each_map_at_the_images_size(folder: Path):
    dataset = open_dataset(folder, "val", semantic=True)
    ((_, batch),) = eval_batches(dataset, short=24, long=32, batch_size=2)
    assert batch.truth.semantic.shape == (1, 32, 32)
    np.testing.assert_array_equal(batch.truth.semantic[0, :24, :32], expected(draw_map(3))[1::2, 1::2])


def test_vocs_palette_is_vocs():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 255: (224, 224, 192)}
    assert {value: tuple(palette()[value].tolist()) for value in known} == known


def test_what_is_written_is_read_again(tmp_path: Path):
    labels = np.random.default_rng(0).choice([0, 1, 2, 3, VOID], (9, 11)).astype(np.uint8)
    in_file(labels, 3).save(tmp_path / "a.png")
    found = Coding.of_values("abc", "abc").labels(tmp_path / "a.png")
    np.testing.assert_array_equal(np.where(found == -1, 3, np.where(found == -2, VOID, found)), labels)


@pytest.mark.parametrize("form", ["voc", "masks"])
def test_conversion_keeps_every_pixels_class(folder: Path, tmp_path: Path, form: str):
    convert(folder, form, tmp_path / "there")
    convert(tmp_path / "there", "masks", tmp_path / "back")
    for split in ("train", "val"):
        one, other = open_dataset(folder, split, semantic=True), open_dataset(tmp_path / "back", split, semantic=True)
        assert one.classes == other.classes
        for i in range(len(one)):
            np.testing.assert_array_equal(one.label_map(i), other.label_map(i))
            np.testing.assert_array_equal(one.image(i), other.image(i))


def test_conversion_says_what_it_leaves_behind(folder: Path, make, tmp_path: Path):
    assert any("label maps were left behind" in note for note in convert(folder, "coco", tmp_path / "coco").notes)
    root = make("voc")
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.zeros((80, 100), np.uint8)).save(root / "SegmentationClass" / "a.png")
    made = convert(root, "masks", tmp_path / "masks")
    assert made.images == 1
    assert any("boxes were left behind" in note for note in made.notes)


def test_info_tells_the_share_of_each_class(folder: Path):
    maps = summarise(open_dataset(folder, "train"))["label_maps"]
    values = np.stack([draw_map(k) for k in range(3)])
    assert maps["images"] == 3
    assert maps["share"]["dog"] == pytest.approx((values == 2).mean(), abs=1e-5)
    assert maps["share"]["background"] == pytest.approx((values == 0).mean(), abs=1e-5)


def test_a_sound_folder_has_no_problems(folder: Path):
    assert check(str(folder)).problems == []


def _smaller(root: Path) -> None:
    Image.fromarray(draw_map()[:40]).save(root / "masks/train/t0.png")


def _value(root: Path) -> None:
    Image.fromarray(draw_map() + np.uint8(draw_map() == 2) * 5).save(root / "masks/train/t0.png")


def _colour(root: Path) -> None:
    Image.fromarray(np.full((*SIZE, 3), 7, np.uint8)).save(root / "masks/train/t0.png")


def _wide(root: Path) -> None:
    Image.fromarray(draw_map().astype(np.uint16)).save(root / "masks/train/t0.png")


SPOILT = {
    "missing map": (lambda root: (root / "masks/train/t0.png").unlink(), ("t0.png", "label map", "missing")),
    "missing image": (lambda root: (root / "images/train/t0.png").unlink(), ("t0.png", "no image")),
    "other size": (_smaller, ("t0.png", "64×40", "64×48")),
    "value of no class": (_value, ("t0.png", "value 7", "row", "class list")),
    "colour of no class": (_colour, ("t0.png", "colour (7, 7, 7)", "class list")),
    "16 bits": (_wide, ("t0.png", "8-bit")),
    "damaged": (lambda root: (root / "masks/train/t0.png").write_bytes(b"PNG"), ("t0.png", "not an image")),
    "class twice": (lambda root: (root / "classes.txt").write_text("cat\ncat\n"), ("classes.txt", "twice: cat")),
    "no class": (lambda root: (root / "classes.txt").write_text("\n"), ("classes.txt", "0 classes")),
    "some colours": (lambda root: (root / "classes.txt").write_text("cat 1 2 3\ndog\n"), ("classes.txt", "1 of its 2")),
    "wrong colour": (lambda root: (root / "classes.txt").write_text("cat 1 2 300\ndog 4 5 6\n"), ("0–255",)),
    "colour twice": (lambda root: (root / "classes.txt").write_text("cat 1 2 3\ndog 1 2 3\n"), ("two classes",)),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_fault_is_told_in_one_sentence(folder: Path, fault: str):
    spoil, words = SPOILT[fault]
    spoil(folder)

    def use_all() -> None:
        dataset = open_dataset(folder, "train", semantic=True)
        for i in range(len(dataset)):
            dataset.truth(i)

    with pytest.raises(UserError) as refusal:
        use_all()
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)
    problems = check(str(folder)).problems
    assert any(all(word in str(problem) for word in words) for problem in problems)


def test_data_without_maps_are_refused(make):
    with pytest.raises(UserError, match=r"no label maps for its split 'train'; expected digits, SegmentationClass"):
        open_dataset(make("yolo"), "train", semantic=True)


def test_a_listed_map_that_is_missing_is_a_problem(make):
    root = make("voc")
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.zeros((80, 100), np.uint8)).save(root / "SegmentationClass" / "a.png")
    (root / "ImageSets" / "Segmentation").mkdir()
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"b\.png' is missing"):
        open_dataset(root)


def test_the_photographs_maps_are_sound(shared: Path):
    dataset = open_dataset(shared / "voc2012_mini", "val", semantic=True)
    assert len(dataset) == 283
    truth = dataset.truth(0)
    assert set(np.unique(truth.semantic)) - {20, VOID} <= set(truth.labels.tolist())
