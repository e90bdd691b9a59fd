import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.cli.output import write_json
from rcnn.data import open_dataset
from rcnn.errors import UserError
from rcnn.proposals import FileRegions, write_regions

scipy_io = pytest.importorskip("scipy.io")
GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden"
XML = (
    "<annotation><filename>{0}.png</filename><size><width>12</width><height>9</height><depth>3</depth></size>"
    "<object><name>a</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>7</xmax><ymax>7</ymax></bndbox></object>"
    "</annotation>"
)
BOXES = [
    np.array([[0, 0, 12, 9], [2, 3, 5, 4]], np.float32),
    np.array([[1, 0, 3, 2]], np.float32),
    np.zeros((0, 4), np.float32),
]


@pytest.fixture
def dataset(tmp_path):
    """A VOC folder of three images of 9 × 12 pixels."""
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (12, 9)).save(root / f"JPEGImages/im{i}.png")
        (root / f"Annotations/im{i}.xml").write_text(XML.format(f"im{i}"))
    (root / "ImageSets/Main/train.txt").write_text("\n".join(f"im{i}" for i in range(3)))
    return open_dataset(root)


def from_one(boxes):
    """Boxes as R-CNN's MATLAB files say them: y1 x1 y2 x2 counted from 1, the last pixel included."""
    return np.stack((boxes[:, 1] + 1, boxes[:, 0] + 1, boxes[:, 3], boxes[:, 2]), 1).astype(np.float64)


def inclusive(boxes):
    """Boxes as whole pixels counted from 0, the last one included."""
    return (boxes - [0, 0, 1, 1]).astype(np.int32)


def rcnn_mat(folder):
    boxes, images = np.empty((1, 3), object), np.empty((3, 1), object)
    for i in range(3):
        boxes[0, i], images[i, 0] = from_one(BOXES[i]), f"im{i}"
    scipy_io.savemat(folder / "r.mat", {"boxes": boxes, "images": images})
    return folder / "r.mat"


def npz(folder):
    np.savez(folder / "r.npz", im0=BOXES[0], im1=inclusive(BOXES[1]), im2=BOXES[2])
    return folder / "r.npz"


def written(folder):
    write_regions(folder / "w.npz", ["im0.png", "im1.png", "im2.png"], BOXES)
    return folder / "w.npz"


def json_list(folder):
    write_json(folder / "r.json", [{"image": f"im{i}.png", "boxes": b.tolist()} for i, b in enumerate(BOXES)])
    return folder / "r.json"


def folder_of_files(folder):
    np.save(folder / "im0.npy", BOXES[0])
    np.save(folder / "im1_boxes.npy", inclusive(BOXES[1]))
    scipy_io.savemat(folder / "im2_boxes.mat", {"boxes": BOXES[2]})
    return folder


@pytest.mark.parametrize("make", [rcnn_mat, npz, written, json_list, folder_of_files])
def test_every_layout_gives_the_same_boxes(dataset, tmp_path, make):
    folder = tmp_path / "files"
    folder.mkdir()
    regions = pickle.loads(pickle.dumps(FileRegions(make(folder), dataset)))
    for i in range(3):
        found = regions(dataset, i)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, BOXES[i])
    assert len(FileRegions(make(folder), dataset, count=1)(dataset, 0)) == 1


def test_any_name_may_be_an_image(tmp_path):
    write_regions(tmp_path / "r.npz", ["file.jpg", "sub/allow_pickle.png"], [BOXES[0], BOXES[1]])
    with np.load(tmp_path / "r.npz") as content:
        assert sorted(content) == ["file", "sub/allow_pickle"]


def test_an_image_without_regions_is_named(dataset, tmp_path):
    write_regions(tmp_path / "r.npz", ["im0", "im1", "im3"], BOXES)
    with pytest.raises(UserError, match="none for image 'im2'; did you mean"):
        FileRegions(tmp_path / "r.npz", dataset)


def test_boxes_of_another_image_are_refused(dataset, tmp_path):
    write_regions(tmp_path / "r.npz", ["im0", "im1", "im2"], [BOXES[0][:, [1, 0, 3, 2]], BOXES[1], BOXES[2]])
    with pytest.raises(UserError, match="beyond its 12×9 pixels"):
        FileRegions(tmp_path / "r.npz", dataset)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".mat", ".json"])
@pytest.mark.parametrize("content", [b"", b"nonsense that is long enough to look like something", b"[1, 2]", b"PK\3\4"])
def test_damaged_files_are_one_sentence(dataset, tmp_path, suffix, content):
    (tmp_path / f"im0{suffix}").write_bytes(content)
    with pytest.raises(UserError, match="im0"):
        FileRegions(tmp_path / f"im0{suffix}", dataset)


@pytest.mark.parametrize(
    "boxes",
    [np.zeros(4), np.zeros((2, 5)), np.array([[5.0, 1, 2, 3]]), np.array([[0, np.nan, 1, 1]]), np.array([["a"] * 4])],
)
def test_arrays_that_are_no_boxes_are_refused(dataset, tmp_path, boxes):
    np.savez(tmp_path / "r.npz", im0=boxes, im1=BOXES[1], im2=BOXES[2])
    with pytest.raises(UserError, match=r"r\.npz"):
        FileRegions(tmp_path / "r.npz", dataset)


def test_missing_and_empty_places_are_named(dataset, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.* exist"):
        FileRegions(tmp_path / "nowhere.npz", dataset)
    with pytest.raises(UserError, match=r"nowhere.* exist"):
        FileRegions(tmp_path / "nowhere", dataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no regions"):
        FileRegions(tmp_path / "empty", dataset)
    scipy_io.savemat(tmp_path / "r.mat", {"boxs": BOXES[0]})
    with pytest.raises(UserError, match="no variable 'boxes'; did you mean 'boxs'"):
        FileRegions(tmp_path / "r.mat", dataset)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/data/golden is not here")
@pytest.mark.parametrize("suffix", ["mat", "npy"])
def test_the_published_demo_boxes_load(tmp_path, suffix):
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    width, height = Image.open(GOLDEN / "selective_search/000004.jpg").size
    Image.new("RGB", (width, height)).save(root / "JPEGImages/000004.png")
    xml = XML.format("000004").replace(">12<", f">{width}<").replace(">9<", f">{height}<")
    (root / "Annotations/000004.xml").write_text(xml)
    (root / "ImageSets/Main/train.txt").write_text("000004")
    dataset = open_dataset(root)
    boxes = FileRegions(GOLDEN / f"selective_search/000004_boxes.{suffix}", dataset)(dataset, 0)
    assert boxes.shape == (2888, 4)
    assert boxes.max(0).tolist()[2:] == [width, height]
    assert (boxes[:, :2] >= 0).all()
