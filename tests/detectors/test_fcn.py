"""FCN against the slow obvious forms of what it claims: a window that slides, crops that are published, ramps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from rcnn import detectors
from rcnn.backbones.geometry import centre_behind, widen
from rcnn.backbones.vgg import FullyConnected, convolutional
from rcnn.data.semantic import VOID
from rcnn.errors import UserError
from rcnn.heads.segmentation import SegmentationHead, SegmentationHeadOptions, Upsample, best_classes, bilinear_kernel
from rcnn.structures import Batch, GroundTruth, ImageBatch

CLASSES = ("cat", "dog", "bird")
PUBLISHED = {32: 19, 16: 27, 8: 31}  # where the released networks crop what is up-sampled to the pixels


def batch_of(*sizes, to, seed=0, void=0.1):
    """Random images of (height, width) padded to `to`, with random label maps of three classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(len(sizes), 3, *to, dtype=torch.uint8)
    maps = torch.full((len(sizes), *to), VOID, dtype=torch.uint8)
    for b, (h, w) in enumerate(sizes):
        pixels[b, :, :h, :w] = torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator)
        maps[b, :h, :w] = torch.randint(0, len(CLASSES) + 1, (h, w), dtype=torch.uint8, generator=generator)
        maps[b, :h, :w][torch.rand(h, w, generator=generator) < void] = VOID
    none = torch.zeros(len(sizes), 1, 4), torch.full((len(sizes), 1), -1), torch.zeros(len(sizes), 1, dtype=torch.bool)
    return Batch(ImageBatch(pixels, torch.tensor(sizes).float()), GroundTruth(*none, semantic=maps))


def randomise(model):
    """Scores and up-sampling that are not their plain beginnings."""
    torch.manual_seed(0)
    for level in model.head.levels.values():
        nn.init.normal_(level.score.weight, std=0.1)
        nn.init.normal_(level.score.bias, std=0.1)
        if level.up is not None and isinstance(level.up.weight, nn.Parameter):
            nn.init.normal_(level.up.weight, mean=0.3, std=0.1)
    return model


@pytest.fixture(scope="module")
def small():
    """fcn-8s/resnet18 from a random start."""
    torch.manual_seed(0)
    return randomise(detectors.create("fcn-8s/resnet18", CLASSES))


def vgg_of(width, classes=5, size=7):
    """VGG16's layers at a fraction of their widths, and fc6, fc7 and scores on maps of `size`×`size`."""
    layers, channels = [], 3
    for stage, convs in enumerate((2, 2, 3, 3, 3)):
        for _ in range(convs):
            layers += [nn.Conv2d(channels, width << min(stage, 3), 3, padding=1), nn.ReLU()]
            channels = width << min(stage, 3)
        layers.append(nn.MaxPool2d(2))
    hidden = 16
    head = FullyConnected(nn.Linear(channels * size**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    head.append(nn.Linear(hidden, classes))
    return nn.Sequential(*layers).double().eval(), head.double().eval(), channels


# The identities of a dense classifier.


def test_without_padding_a_dense_classifier_equals_one_that_slides_by_32():
    """On 384×384 the 6×6 scores are those of a 224×224 window, whose pool5 is 1×1 where no convolution pads."""
    torch.manual_seed(0)
    body, head, channels = vgg_of(4, size=1)
    widen(body, 0)
    dense = convolutional(head, channels, 1)
    image = torch.randn(1, 3, 384, 384, dtype=torch.float64)
    with torch.no_grad():
        scores = dense(body(image))
        assert scores.shape == (1, 5, 6, 6)
        for y in range(6):
            for x in range(6):
                window = image[:, :, 32 * y : 32 * y + 224, 32 * x : 32 * x + 224]
                torch.testing.assert_close(scores[:, :, y, x], head(body(window)), rtol=0, atol=1e-10)


def test_with_padding_the_identity_breaks():
    torch.manual_seed(0)
    body, head, channels = vgg_of(4)
    image = torch.randn(1, 3, 384, 384, dtype=torch.float64)
    with torch.no_grad():
        scores = convolutional(head, channels, 7)(body(image))
        assert scores.shape == (1, 5, 6, 6)
        assert (scores[:, :, 2, 2] - head(body(image[:, :, 64:288, 64:288]))).abs().max() > 1e-4


def test_convolutions_over_one_pool5_equal_the_classifier_sliding_over_it():
    torch.manual_seed(0)
    _, head, channels = vgg_of(8)
    pool5 = torch.randn(2, channels, 12, 12, dtype=torch.float64)
    scores = convolutional(head, channels, 7)(pool5)
    assert scores.shape == (2, 5, 6, 6)
    for y in range(6):
        for x in range(6):
            torch.testing.assert_close(scores[:, :, y, x], head(pool5[:, :, y : y + 7, x : x + 7]), rtol=0, atol=1e-10)


def test_an_image_of_224_gives_one_score_the_classifiers():
    torch.manual_seed(0)
    body, head, channels = vgg_of(8)
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    scores = convolutional(head, channels, 7)(body(image))
    assert scores.shape == (1, 5, 1, 1)
    torch.testing.assert_close(scores[:, :, 0, 0], head(body(image)), rtol=0, atol=1e-10)


# Sizes and crops.


def test_the_crops_follow_from_where_cells_lie():
    """19; 5 and 27; 5, 9 and 31: the offsets of the released FCN-32s, FCN-16s and FCN-8s."""
    with torch.device("meta"):
        model = detectors.create("fcn-8s/vgg16", CLASSES, recipe="classic")
    head = model.head
    for stride, crop in PUBLISHED.items():
        layer = head.to_pixels[str(stride)]
        assert layer.size == 2 * stride
        assert -layer.centre(head.starts[stride], stride) == crop
    for stride, deeper, crop in ((16, 32, 5), (8, 16, 9)):
        up = head.levels[str(stride)].up
        assert up.size == 4
        assert (up.centre(head.starts[deeper], deeper) - head.centres[stride]) / stride == crop


def test_a_cells_centre_is_the_middle_of_what_it_sees():
    """By the gradient of one cell: the pixels that it depends on lie evenly around its centre."""
    body, _, _ = vgg_of(2)
    for border in (100, 1):
        widen(body, border)
        centre, stride = centre_behind(body, 0.0, 1)
        image = torch.zeros(1, 3, 320, 320, dtype=torch.float64, requires_grad=True)
        smooth = nn.Sequential(*[nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer for layer in body])
        for layer in smooth:
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 0.1)
        cell = round((160 - centre) / stride)
        smooth(image)[0, :, cell, cell].sum().backward()
        seen = image.grad[0].sum(0).sum(1).nonzero()[:, 0]
        if seen[0] > 0 and seen[-1] < 319:
            assert (seen[0] + seen[-1]).item() / 2 == pytest.approx(centre + stride * cell, abs=0.01)
        assert stride == 32


SIZES = [(h, w) for h, w in zip(range(1, 500, 10), range(497, 1, -10), strict=False)]


@pytest.mark.parametrize("padding", ["published", "same"])
def test_an_image_of_any_size_gets_a_score_for_every_pixel(padding):
    """50 odd sizes, on maps of the shapes that the network gives, and each pixel gets the score that lies over it."""
    assert len(SIZES) == 50
    body, _, _ = vgg_of(1)
    widen(body, 100 if padding == "published" else 1)
    stops = {8: 17, 16: 24, 32: 31}
    centres = {stride: centre_behind(body[:stop], 0.0, 1)[0] for stride, stop in stops.items()}
    if padding == "published":
        centres[32] += 96
    head = SegmentationHead((1, 1, 1), (8, 16, 32), list(centres.values()), 1, SegmentationHeadOptions())
    for level in head.levels.values():
        nn.init.constant_(level.score.weight, 1 / 3)
    looked = 0
    for height, width in SIZES:
        maps = []
        for stride, stop in stops.items():
            h, w = (_cells(body[:stop], side) for side in (height, width))
            h, w = (h - 6, w - 6) if stride == 32 and padding == "published" else (h, w)
            # Each cell scores its own place in the image: so must each pixel, where cells lie on both sides.
            rows = centres[stride] + stride * torch.arange(h)
            columns = centres[stride] + stride * torch.arange(w)
            maps.append((rows[:, None] + 3 * columns)[None, None])
        inner = [
            slice(max(math.ceil(centres[32] + 24), 0), max(math.floor(centres[32] + 32 * (cells - 1) - 23), 0))
            for cells in maps[-1].shape[-2:]
        ]
        for finest, share in ((32, 1 / 3), (16, 2 / 3), (8, 1.0)):
            with torch.no_grad():
                scores = head(maps, (height, width), finest)
            assert scores.shape == (1, 1, height, width)
            place = (torch.arange(height)[:, None] + 3 * torch.arange(width)) * share
            torch.testing.assert_close(scores[0, 0][*inner], place[*inner], rtol=1e-4, atol=0.02)
            looked += place[*inner].numel()
    assert looked > 1e6


def _cells(body, side):
    """How many cells a map has along a side of so many pixels, layer by layer."""
    for layer in body:
        if isinstance(layer, nn.Conv2d):
            side = side + 2 * layer.padding[0] - 2
        elif isinstance(layer, nn.MaxPool2d):
            side = -(-side // 2) if layer.ceil_mode else max(side // 2, 1)
    return side


# Up-sampling.


@pytest.mark.parametrize(("factor", "even"), [(2, True), (2, False), (8, True), (8, False), (32, True), (32, False)])
def test_bilinear_upsampling_draws_a_ramp_exactly(factor, even):
    layer = Upsample(factor, 2 * factor - (not even), 2)
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    ramp = torch.stack([2 * rows - columns, rows + 3 * columns])[None]  # [1, 2, 5, 6]
    fine = layer(ramp)
    at = torch.arange(fine.shape[2]) / factor + layer.centre(0.0, factor) / factor  # in cells
    across = torch.arange(fine.shape[3]) / factor + layer.centre(0.0, factor) / factor
    inner_y, inner_x = (at >= 0) & (at <= 4), (across >= 0) & (across <= 5)
    expected = torch.stack([2 * at[:, None] - across, at[:, None] + 3 * across])[:, inner_y][:, :, inner_x]
    torch.testing.assert_close(fine[0][:, inner_y][:, :, inner_x], expected, rtol=0, atol=1e-4)
    assert inner_y.sum() > 3 * factor


def test_the_bilinear_kernel_is_caffes():
    for size in (3, 4, 15, 16, 63, 64):
        factor = (size + 1) // 2
        centre = factor - 1 if size % 2 else factor - 0.5
        slow = [
            [(1 - abs(y - centre) / factor) * (1 - abs(x - centre) / factor) for x in range(size)] for y in range(size)
        ]
        torch.testing.assert_close(bilinear_kernel(factor, size), torch.tensor(slow))


def test_classes_do_not_mix():
    layer = Upsample(2, 4, 3, learned=True)
    scores = torch.zeros(1, 3, 4, 4)
    scores[:, 1] = 1
    assert layer(scores)[:, [0, 2]].abs().max() == 0


# Losses and learning.


def test_the_loss_is_the_sum_over_the_pixels_that_are_not_void(small):
    batch = batch_of((60, 90), (64, 96), to=(64, 96))
    logits = small.scores(batch.images).log_softmax(1)
    per_image = [[], []]
    for b in range(2):
        for y in range(64):
            for x in range(96):
                label = int(batch.truth.semantic[b, y, x])
                if label != VOID:
                    per_image[b].append(-logits[b, label, y, x])
    sums, means = ([f(torch.stack(each)) for each in per_image] for f in (torch.sum, torch.mean))
    for loss, parts in (("sum", sums), ("mean", means)):
        small.head.options = SegmentationHeadOptions(loss=loss)
        torch.testing.assert_close(small.losses(batch)["loss_pixels"], torch.stack(parts).mean(), rtol=1e-4, atol=1e-4)
    small.head.options = SegmentationHeadOptions()


@pytest.mark.parametrize("recipe", ["classic", "modern"])
def test_every_parameter_gets_a_gradient(recipe):
    torch.manual_seed(0)
    model = randomise(detectors.create("fcn-8s/resnet18", CLASSES, recipe=recipe))
    batch = batch_of((64, 96), to=(64, 96))
    batch.truth.semantic[:] = len(CLASSES)  # nothing but background
    sum(model(batch).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_picture_of_void_alone_has_no_loss_and_no_nan(small):
    batch = batch_of((64, 96), to=(64, 96))
    batch.truth.semantic[:] = VOID
    assert small.losses(batch)["loss_pixels"].item() == 0


def test_losses_and_scores_do_not_hang_on_the_mode(small):
    batch = batch_of((60, 90), to=(64, 96))
    small.train()
    first, scores = small.losses(batch)["loss_pixels"], small.scores(batch.images)
    small.eval()
    torch.testing.assert_close(small.losses(batch)["loss_pixels"], first)
    torch.testing.assert_close(small.scores(batch.images), scores)
    losses, judged = small.judge(batch)
    torch.testing.assert_close(judged, scores)
    torch.testing.assert_close(losses["loss_pixels"], first)


def test_a_new_level_changes_nothing_until_it_has_learnt(small):
    """Scores of skips start from zero (section 4.3), so each stage goes on from where the one before it stood."""
    torch.manual_seed(0)
    model = detectors.create("fcn-8s/resnet18", CLASSES)
    nn.init.normal_(model.head.levels["32"].score.weight, std=0.1)
    images = batch_of((96, 128), to=(96, 128)).images
    with torch.no_grad():
        maps = model._maps(images)
        coarse, fused = (model.head(maps, (96, 128), finest) for finest in (32, 8))
    # Two steps of ×2 and one of ×8 instead of one of ×32: the same line but where cells meet.
    assert (coarse - fused).abs().max() < 1e-4


def test_parts_are_the_networks_without_their_finer_levels():
    for system, parts in (("fcn-32s", ("32s",)), ("fcn-16s", ("32s", "16s")), ("fcn-8s", ("32s", "16s", "8s"))):
        with torch.device("meta"):
            assert detectors.create(f"{system}/resnet18", CLASSES).parts == ("pretrain", *parts)
    torch.manual_seed(0)
    model = randomise(detectors.create("fcn-16s/resnet18", CLASSES))
    batch = batch_of((64, 96), to=(64, 96))
    model(batch, part="32s")["loss_pixels"].backward()
    assert model.head.levels["16"].score.weight.grad is None
    assert model.head.levels["32"].score.weight.grad is not None


def test_pretraining_tells_objects_apart_and_does_not_look_at_background():
    torch.manual_seed(0)
    model = randomise(detectors.create("fcn-8s/resnet18", CLASSES)).eval()
    batch = batch_of((64, 96), (48, 80), to=(64, 96))
    labels = batch.truth.semantic.long()
    found = model(batch, part="pretrain")["loss_pixels"]
    with torch.no_grad():
        logits = model.head(model._maps(batch.images), (64, 96), 32)
    background = len(CLASSES)
    means = []
    for image in range(2):
        losses = [
            torch.logsumexp(logits[image, :background, y, x], 0) - logits[image, labels[image, y, x], y, x]
            for y in range(64)
            for x in range(96)
            if labels[image, y, x] < background
        ]
        means.append(sum(losses) / len(losses))
    torch.testing.assert_close(found, torch.stack(means).mean(), rtol=1e-4, atol=1e-4)

    found.backward()
    grad = model.head.levels["32"].score.weight.grad
    assert not grad[background].any()
    assert grad[:background].any()
    assert model.head.levels["16"].score.weight.grad is None

    batch.truth.semantic.fill_(background)
    assert model(batch, part="pretrain")["loss_pixels"].item() == 0


# Predictions.


def test_a_prediction_does_not_hang_on_its_company(small):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((77, 101), (80, 99), (40, 120))]
    small.options = detectors.updated(small.options, {"image_size": [96, 128]})
    together = small.predict(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = small.predict([image])
        np.testing.assert_array_equal(found.labels, alone.labels)
        assert found.labels.shape == image.shape[:2]
        assert (found.width, found.height) == (image.shape[1], image.shape[0])
        assert sum(found.shares.values()) == pytest.approx(1, abs=1e-4)


def test_labels_are_the_best_of_the_resized_scores():
    scores = torch.randn(5, 20, 30)
    resized = F.interpolate(scores[None], (47, 61), mode="bilinear")[0]
    torch.testing.assert_close(best_classes(scores, (47, 61)), resized.argmax(0).to(torch.uint8))
    torch.testing.assert_close(best_classes(scores, (20, 30)), scores.argmax(0).to(torch.uint8))


def test_a_segmentation_is_saved_as_a_palette_png(small, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    (found,) = small.predict([image])
    written = np.asarray(Image.open(found.save_labels(tmp_path / "map.png")))
    np.testing.assert_array_equal(written, np.where(found.labels == len(CLASSES), 0, found.labels + 1))
    assert Image.open(found.save(tmp_path / "over.jpg")).size == (60, 40)
    with pytest.raises(UserError, match=r"expected \.png"):
        found.save_labels(tmp_path / "map.jpg")
    assert found.to_dict("map.png")["segmentation"] == {"shares": found.shares, "labels": "map.png"}


def test_a_saved_model_says_the_same(small, tmp_path):
    images = batch_of((64, 96), to=(64, 96)).images
    detectors.save(small, tmp_path / "model")
    again = detectors.load(tmp_path / "model", device="cpu")
    torch.testing.assert_close(again.segment(images), small.segment(images))


def test_a_vgg_is_wide_where_it_is_published_and_same_where_not():
    with torch.device("meta"):
        published = detectors.create("fcn-8s/vgg16", CLASSES, recipe="classic")
        same = detectors.create("fcn-8s/vgg16", CLASSES)
    assert published.backbone.body[0].padding == (100, 100)
    assert published.backbone.head[0].padding == (0, 0)
    assert same.backbone.body[0].padding == (1, 1)
    assert same.backbone.head[0].padding == (3, 3)
    assert published.backbone.head[0].weight.shape == (4096, 512, 7, 7)
    assert published.backbone.head[3].weight.shape == (4096, 4096, 1, 1)


def test_bare_names_mean_the_form_with_skips_and_others_are_refused():
    assert detectors.parse("fcn-8s/resnet50")[1] == "resnet50-skip"
    assert detectors.parse("fcn-8s/vgg16")[1] == "vgg16-skip"
    assert detectors.parse("fcn-8s/mobilenetv2")[1] == "mobilenetv2-skip"
    assert detectors.parse("faster-rcnn/mobilenetv2")[1] == "mobilenetv2"
    with pytest.raises(UserError, match="'alexnet' has maps of strides 16 where fcn-8s/alexnet needs 8, 16 and 32"):
        detectors.create("fcn-8s/alexnet", CLASSES)
    with pytest.raises(UserError, match="has no losses '4s'"), torch.device("meta"):
        detectors.create("fcn-8s/resnet18", CLASSES)(None, part="4s")
