"""The oldest check of a detector: it must be able to learn a handful of real images by heart."""

import json
import shutil
from pathlib import Path

import pytest

import rcnn

SHARED = Path(__file__).parents[3] / "shared"
PHOTOS, WEIGHTS = SHARED / "data" / "coco128_train", SHARED / "weights" / "mobilenet_v2_tfptq_tv.pth"


PLAIN = {
    "augment.scale": [1.0, 1.0],
    "augment.photometric": 0.0,
    "augment.iou_crop": 0.0,
    "augment.zoom_out": 0.0,
    "model.box.samples": 128,
    "model.backbone.levels": [4, 8, 16, 32, 64],
    "train.eval_every": 0,
    "train.lr": 0.02,
}


def eight_photos(tmp_path, annotations):
    """The first 8 photos with objects of coco128, as a COCO folder whose train and val are the same."""
    if not (PHOTOS.is_dir() and WEIGHTS.is_file()):
        pytest.skip("coco128_train and the pretrained MobileNetV2 are not beside the repository")
    content = json.loads((PHOTOS / "annotations" / annotations).read_text())
    wanted = {a["image_id"] for a in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in wanted][:8]
    ids = {image["id"] for image in images}
    content["images"] = images
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    present = {a["category_id"] for a in content["annotations"]}
    content["categories"] = [c for c in content["categories"] if c["id"] in present]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(content))
    for image in images:
        shutil.copy(PHOTOS / "images" / image["file_name"], tmp_path / "images")
    return tmp_path


def learnt_by_heart(system, annotations, steps, tmp_path):
    """The figures of a model on the eight photos that it has learnt from."""
    eight = eight_photos(tmp_path, annotations)
    result = rcnn.train(
        system,
        eight,
        out=tmp_path / "run",
        weights=WEIGHTS,
        steps=steps,
        batch_size=4,
        image_size=(480, 640),
        precision="bf16",
        settings=PLAIN,
    )
    return rcnn.evaluate(result.last, eight, split="train")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_photos_are_learnt_by_heart(tmp_path):
    figures = learnt_by_heart("faster-rcnn/mobilenetv2-fpn", "boxes.json", 400, tmp_path)
    assert figures.AP50 >= 0.95, figures.summary()


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_eight_photos_are_learnt_by_heart_with_their_masks(tmp_path):
    figures = learnt_by_heart("mask-rcnn/mobilenetv2-fpn", "instances_from_panoptic.json", 500, tmp_path)
    assert (figures.mask or {})["AP50"] >= 0.90, figures.summary()
