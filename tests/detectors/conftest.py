import pytest
import torch

import rcnn

TINY = {
    "image_size": [64, 96],
    "backbone": {"channels": 16},
    "anchors": {"sizes": [[16.0], [32.0], [64.0], [96.0], [128.0]]},
    "rpn": {"pre_nms": [100, 60], "post_nms": [100, 60], "samples": 64},
    "box": {"hidden": [32], "samples": 32},
}


@pytest.fixture
def tiny():
    """A small random Faster R-CNN whose weights are large enough that its detections differ from place to place."""

    def make(recipe="modern", **changes):
        torch.manual_seed(0)
        model = rcnn.create(
            "faster-rcnn/resnet18-fpn", ["cat", "dog", "cow"], recipe=recipe, settings={**TINY, **changes}
        )
        for layer in (
            model.rpn.head.cls_logits,
            model.rpn.head.bbox_pred,
            model.box_head.cls_score,
            model.box_head.bbox_pred,
        ):
            torch.nn.init.normal_(layer.weight, std=0.1)
        return model

    return make
