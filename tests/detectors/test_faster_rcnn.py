import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.boxes import iou
from rcnn.detectors import base
from rcnn.structures import Batch, GroundTruth, ImageBatch


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(*counts, height=64, width=96, seed=0):
    """A batch of noise images with so many objects each."""
    rng = torch.Generator().manual_seed(seed)
    most = max(1, *counts)
    corner = torch.rand(len(counts), most, 2, generator=rng) * 40
    boxes = torch.cat((corner, corner + 10 + 10 * torch.rand(len(counts), most, 2, generator=rng)), -1)
    labels = torch.randint(0, 3, (len(counts), most), generator=rng)
    for row, count in enumerate(counts):
        boxes[row, count:] = 0
        labels[row, count:] = -1
    pixels = torch.randint(0, 256, (len(counts), 3, height, width), generator=rng, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * len(counts), dtype=torch.float32)
    return Batch(ImageBatch(pixels, sizes), GroundTruth(boxes, labels, labels < -1), ("x",) * len(counts))


def same(a, b, tolerance=1e-3):
    """Whether two images' detections agree one to one."""
    return (
        len(a) == len(b)
        and np.array_equal(a.labels, b.labels)
        and np.allclose(a.boxes, b.boxes, atol=tolerance)
        and np.allclose(a.scores, b.scores, atol=1e-5)
    )


def total(losses):
    return sum(value for name, value in losses.items() if name.startswith("loss"))


@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0)])
def test_every_parameter_gets_a_finite_gradient_with_and_without_objects(tiny, recipe, counts):
    model = tiny(recipe)
    losses = model(batch_of(*counts), torch.Generator().manual_seed(0))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "foreground_rois"}
    total(losses).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_an_images_detections_do_not_depend_on_its_company(tiny):
    model = tiny()
    images = [noise(60, 90, 1), noise(90, 60, 2), noise(64, 200, 3), noise(61, 91, 4), noise(300, 40, 5)]
    together = model.predict(images, score=0.1, batch_size=4)
    assert any(len(d) for d in together)
    for image, found in zip(images, together, strict=True):
        assert same(found, model.predict(image, score=0.1)[0])


def test_predictions_and_losses_are_two_methods_not_two_modes(tiny):
    model = tiny(backbone={"norm": "batch", "channels": 16})
    image, batch = noise(64, 96, 1), batch_of(2)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    in_eval = model.eval().predict(image)[0]
    model.eval().losses(batch)["loss_cls"].backward()
    in_train = model.train().predict(image)[0]
    assert same(in_eval, in_train)
    assert model.training
    assert model.box_head.training
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items()), "neither changed a statistic"


def test_every_kind_of_image_gives_the_same_detections(tiny, tmp_path):
    model, pixels = tiny(), noise(70, 100, 1)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [
        pixels,
        Image.fromarray(pixels),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        tensor,
        tensor / 255.0,
    ]
    expected, *others = model.predict(kinds, score=0.1)
    assert len(expected)
    assert all(same(expected, other) for other in others)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), torch.zeros(4, 4, 3), 3, np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(tiny, bad):
    with pytest.raises(base.UserError, match="expected"):
        tiny().predict([bad])


def test_boxes_come_back_in_pixels_of_the_original(tiny):
    model = tiny()
    small = noise(64, 96, 1)
    large = np.asarray(Image.fromarray(small).resize((384, 256), Image.NEAREST))
    found = model.predict(large, score=0.05)[0]
    assert (found.width, found.height) == (384, 256)
    assert found.boxes[:, 2].max() <= 384
    assert found.boxes[:, 3].max() <= 256
    assert found.boxes.max() > 96, "not in pixels of the 64 × 96 input"


def test_the_same_seed_draws_the_same_losses(tiny):
    model, batch = tiny(box={"samples": 8, "hidden": [32]}), batch_of(3, 2)
    draws = [model.losses(batch, torch.Generator().manual_seed(seed))["loss_cls"].item() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_an_overflow_is_done_again_with_more_room(tiny, monkeypatch):
    model, image = tiny(), noise(64, 96, 1)
    expected = model.predict(image, score=0.01)[0]
    assert len(expected) > 5
    monkeypatch.setattr(base, "CAPACITY", 4)
    assert same(expected, model.predict(image, score=0.01)[0])


def test_no_two_detections_of_a_class_overlap_more_than_nms_allows(tiny):
    found = tiny().predict(noise(64, 96, 1), score=0.05)[0]
    for label in set(found.labels.tolist()):
        boxes = torch.from_numpy(found.boxes[found.labels == label])
        overlap = iou(boxes, boxes).fill_diagonal_(0)
        assert overlap.max() <= 0.5 + 1e-4


@pytest.mark.parametrize("recipe", ["modern", "classic"])
def test_losses_and_detections_compile_without_a_graph_break(tiny, recipe):
    model, batch = tiny(recipe).eval(), batch_of(2, 0)
    eager = model.losses(batch, None)
    assert set(eager) == set(torch.compile(model.losses, fullgraph=True, backend="eager")(batch, None))
    with torch.no_grad():
        found = torch.compile(model.detect, fullgraph=True, backend="eager")(batch.images)
        expected = model.detect(batch.images)
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-3)


def test_a_batch_of_one_shape_may_mix_true_sizes(tiny):
    """Images whose padded shapes agree share a batch; each sees its own border."""
    model = tiny().eval()
    batch = batch_of(2, 2)
    batch.images.sizes[1] = torch.tensor([50.0, 70.0])
    batch.images.pixels[1, :, 50:] = 0
    batch.images.pixels[1, :, :, 70:] = 0
    with torch.no_grad():
        both = model.detect(batch.images)
        alone = model.detect(ImageBatch(batch.images.pixels[1:], batch.images.sizes[1:]))
    assert torch.allclose(both.boxes[1], alone.boxes[0], atol=1e-3)
    assert both.boxes[1, :, 2].max() <= 70
    assert both.boxes[1, :, 3].max() <= 50


def test_a_few_steps_on_one_image_find_its_objects(tiny):
    torch.manual_seed(0)
    model = tiny(rpn={"pre_nms": [200, 100], "post_nms": [200, 100]}).train()
    pixels = np.full((64, 96, 3), 60, np.uint8)
    pixels[10:40, 10:40], pixels[20:50, 55:85] = (250, 30, 30), (30, 30, 250)
    boxes = torch.tensor([[[10.0, 10, 40, 40], [55, 20, 85, 50]]])
    batch = Batch(
        ImageBatch(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.tensor([[64.0, 96.0]])),
        GroundTruth(boxes, torch.tensor([[0, 2]]), torch.zeros(1, 2, dtype=torch.bool)),
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(200):
        optimiser.zero_grad()
        total(model.losses(batch)).backward()
        optimiser.step()
    found = model.predict(pixels, score=0.5)[0]
    assert set(found.names) == {"cat", "cow"}
    for label, box in ((0, boxes[:, 0]), (2, boxes[:, 1])):
        surest = torch.from_numpy(found.boxes[found.labels == label][:1])
        assert iou(surest, box).item() > 0.6


def test_an_overflow_does_not_run_the_network_again(tiny, monkeypatch):
    model, passes = tiny(), []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(base, "CAPACITY", 4)
    assert len(model.predict(noise(64, 96, 1), score=0.01)[0]) > 5
    assert len(passes) == 1


def test_images_too_small_for_any_anchor_are_said_or_refused(tiny):
    """The classic recipe trains no anchor that crosses the edge: on small images the RPN would learn nothing."""
    classic = tiny("classic", anchors={"sizes": [[64.0], [96.0], [128.0], [256.0], [512.0]]})
    assert classic.advice(np.array([[64, 96], [200, 300]])) == [], "64 × 96 in the network holds the anchor 64 × 64"
    mixed = classic.advice(np.array([[64, 96], [20, 96]]))  # the latter is 20 × 96
    assert len(mixed) == 1
    assert "in 1 of 2 training images no anchor lies inside" in mixed[0]
    with pytest.raises(
        base.UserError, match=r"smallest is .*, the first image in the network 96×20; .*rpn.border=none"
    ):
        classic.advice(np.array([[20, 96]]))
    assert tiny("modern").advice(np.array([[20, 96]])) == []


def test_a_stage_may_ask_for_the_losses_of_one_half(tiny):
    model, batch = tiny(), batch_of(2, 3)
    rpn = model(batch, torch.Generator().manual_seed(0), "rpn")
    detector = model(batch, torch.Generator().manual_seed(0), "detector")
    both = model(batch, torch.Generator().manual_seed(0))
    assert set(rpn) == {"loss_rpn_cls", "loss_rpn_box"}
    assert set(detector) == {"loss_cls", "loss_box", "foreground_rois"}
    assert set(both) == {*rpn, *detector}
    assert all(torch.equal(detector[name], both[name]) for name in detector)
    with pytest.raises(base.UserError, match="did you mean 'rpn'"):
        model(batch, None, "rpm")


def test_given_proposals_stand_in_for_the_rpns(tiny):
    model, batch = tiny(), batch_of(2, 3)
    features = model.backbone(batch.images)
    own = model.rpn.propose(model.rpn(features, batch.images), batch.images, training=True)
    expected = model(batch, torch.Generator().manual_seed(0), "detector")
    batch.proposals = own
    given = model(batch, torch.Generator().manual_seed(0), "detector")
    assert all(torch.equal(expected[name], given[name]) for name in expected)
    total(given).backward()
    assert all(parameter.grad is None for parameter in model.rpn.parameters()), "the RPN had no part in it"

    image = noise(64, 96, 1)
    region = np.array([[10, 10, 50, 40]], np.float32)
    found = model.predict(image, score=0.0, regions=[region])[0]
    assert len(found) == 3, "the region, as each class"


@pytest.mark.parametrize("form", ["shrivastava", "rfcn", "fraction"])
@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
def test_hard_examples_train_every_parameter_in_bf16_too(tiny, form, counts):
    model = tiny(box={"ohem": form, "samples": 8, "hidden": [32]})
    with torch.autocast("cpu", torch.bfloat16):  # the look without gradient must leave no weights behind
        losses = model(batch_of(*counts), torch.Generator().manual_seed(0))
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
