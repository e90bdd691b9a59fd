"""Caffe's models in their own layout, read, and held against a forward pass by the released code's conventions.

fc6 alone is narrower than the published one, so that a file takes a megabyte in the place of hundreds.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg as tv_vgg

from rcnn import backbones
from rcnn.backbones import alexnet, vgg, zf
from rcnn.errors import UserError
from rcnn.interop import Asked, built, caffe
from rcnn.structures import ImageBatch, Proposals

NARROW = 24
PIXEL_MEANS = torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]
FCN_MEAN = torch.tensor([104.00699, 116.66877, 122.67892])[:, None, None]
HEIGHT, WIDTH = 160, 224
# py-faster-rcnn's nine anchors of the first place, right and bottom their last pixels (lib/rpn/generate_anchors.py).
ANCHORS = [
    *((-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199)),
    *((-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263)),
    *((-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359)),
]
VGG_STAGES = ((1, 64, 2), (2, 128, 2), (3, 256, 3), (4, 512, 3), (5, 512, 3))
VGG_CONVS = [(f"conv{stage}_{i}", width) for stage, width, count in VGG_STAGES for i in range(1, count + 1)]


@pytest.fixture
def narrow(monkeypatch):
    """fc6 of `NARROW` outputs in every net."""

    def head(channels, width):
        layers = alexnet.OrderedDict(
            fc6=nn.Linear(channels * 36, NARROW), relu6=nn.ReLU(), fc7=nn.Linear(NARROW, width), relu7=nn.ReLU()
        )
        return vgg.FullyConnected(layers)

    def vgg16(weights=None):
        sides = (nn.Linear(25088, NARROW), nn.ReLU(), nn.Dropout(), nn.Linear(NARROW, 4096), nn.ReLU(), nn.Dropout())
        return SimpleNamespace(
            features=tv_vgg.make_layers(tv_vgg.cfgs["D"]), classifier=nn.Sequential(*sides, nn.Identity())
        )

    monkeypatch.setattr(zf, "caffe_head", head)
    monkeypatch.setattr(vgg, "vgg16", vgg16)


class Weights(dict):
    """Random blobs of layers by name."""

    def __init__(self, seed=0):
        super().__init__()
        self.rng = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=1.0):
        return torch.randn(shape, generator=self.rng) * std

    def conv(self, name, out, inside, side, bias=True):
        weight = self.normal(out, inside, side, side, std=math.sqrt(2 / (inside * side * side)))
        self[name] = [weight, self.normal(out, std=0.1)] if bias else [weight]

    def fc(self, name, out, inside):
        self[name] = [self.normal(out, inside, std=math.sqrt(2 / inside)), self.normal(out, std=0.1)]

    def norm(self, name, channels, scale=1.0):
        """BatchNorm's running sums with their count, then Scale."""
        mean, var = 0.2 * self.normal(channels), 0.5 + torch.rand(channels, generator=self.rng)
        self[f"bn{name}"] = [mean * 999.98, var * 999.98, torch.tensor([999.98])]
        self[f"scale{name}"] = [scale * (1 + 0.2 * self.normal(channels)), 0.2 * self.normal(channels)]

    def tame(self, name, values, std):
        """Makes what a layer says vary by `std`."""
        for tensor in self[name]:
            tensor *= std / values.std()

    def __call__(self, name, x, stride=1, padding=0, dilation=1):
        weight, *bias = self[name]
        if weight.ndim == 2:
            return F.linear(x.flatten(1), weight, *bias)
        return F.conv2d(x, weight, bias[0] if bias else None, stride, padding, dilation)


def zf_weights():
    weights = Weights()
    for name, out, inside, side in (
        *(("conv1", 96, 3, 7), ("conv2", 256, 96, 5), ("conv3", 384, 256, 3), ("conv4", 384, 384, 3)),
        ("conv5", 256, 384, 3),
    ):
        weights.conv(name, out, inside, side)
    weights.fc("fc6", NARROW, 256 * 36)
    weights.fc("fc7", 4096, NARROW)
    return weights


def zf_map(weights, x):
    """conv5 of ZF [1, 256, h, w]."""
    for name, side in (("conv1", 7), ("conv2", 5)):
        x = weights(name, x, 2, side // 2).relu()
        # Caffe's LRN WITHIN_CHANNEL: (1 + α · mean of squares over 3×3)^−β.
        x = x / (1 + 5e-5 * F.avg_pool2d(x * x, 3, 1, 1)) ** 0.75
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    for name in ("conv3", "conv4", "conv5"):
        x = weights(name, x, 1, 1).relu()
    return x


def vgg_maps(weights, x, border=1):
    """Behind pool3, pool4 and conv5_3 of VGG16; Caffe's poolings keep what the last window has."""
    maps = {}
    for name, _ in VGG_CONVS:
        if name != "conv1_1" and name.endswith("_1"):
            x = maps[int(name[4]) - 1] = F.max_pool2d(x, 2, 2, ceil_mode=True)
        x = weights(name, x, 1, border if name == "conv1_1" else 1).relu()
    return maps[3], maps[4], x


def add_rpn(weights, channels, width, conv="rpn_conv/3x3"):
    weights.conv(conv, width, channels, 3)
    weights.conv("rpn_cls_score", 18, width, 1)
    weights.conv("rpn_bbox_pred", 36, width, 1)


def rpn(weights, map_, conv="rpn_conv/3x3"):
    """Object less background [h·w·9] and deltas [h·w·9, 4]: 2k channels, those of background first."""
    hidden = weights(conv, map_, 1, 1).relu()
    scores = weights("rpn_cls_score", hidden)[0]
    deltas = weights("rpn_bbox_pred", hidden)[0]
    logits = (scores[9:] - scores[:9]).permute(1, 2, 0).flatten()
    return logits, deltas.permute(1, 2, 0).reshape(-1, 4)


def anchors_of(height, width):
    y, x = torch.meshgrid(torch.arange(height) * 16, torch.arange(width) * 16, indexing="ij")
    return (torch.stack((x, y, x, y), -1).view(-1, 1, 4) + torch.tensor(ANCHORS)).view(-1, 4).float()


def proposals_of(slow, logits, deltas, anchors):
    """proposal_layer.py at test, for an image that was not resized."""
    boxes = slow.clipped(slow.decode(deltas, anchors, plus=1), HEIGHT - 1, WIDTH - 1)
    large = (boxes[:, 2] - boxes[:, 0] + 1 >= 16) & (boxes[:, 3] - boxes[:, 1] + 1 >= 16)
    boxes, logits = boxes[large], logits[large]
    order = logits.argsort(descending=True)[:6000]
    boxes, logits = boxes[order], logits[order]
    return boxes[slow.greedy(boxes, logits, 0.7, plus=1)[:300]]


def detections_of(slow, logits, deltas, regions):
    """test.py: logits [N, K+1], background first, deltas [N, 4 · slots], background's first."""
    scores, found = logits.softmax(-1), []
    for label in range(1, scores.shape[1]):
        slot = label if deltas.shape[1] > 8 else 1
        boxes = slow.decode(deltas[:, 4 * slot : 4 * slot + 4], regions, plus=1)
        boxes = slow.clipped(boxes, HEIGHT - 1, WIDTH - 1)
        wanted = scores[:, label] > 0.05
        kept = slow.greedy(boxes[wanted], scores[wanted, label], 0.3, plus=1)
        found += [(scores[wanted, label][k].item(), boxes[wanted][k], label - 1) for k in kept]
    found = sorted(found, key=lambda entry: -entry[0])[:100]
    return torch.stack([f[1] for f in found]), torch.tensor([f[0] for f in found]), [f[2] for f in found]


def input_of(picture, mean):
    return (picture.flip(0).float() - mean)[None]


def check_regions(model, weights, slow, close, images, map_, conv):
    """The RPN's outputs, anchors and proposals; the best 40 proposals."""
    regions = model.rpn(model.backbone(images), images)
    logits, deltas = rpn(weights, map_, conv)
    close(regions.logits[0][0], logits)
    close(regions.deltas[0][0], deltas)
    anchors = anchors_of(*map_.shape[-2:])
    last_pixels = regions.anchors[0] - torch.tensor([0.0, 0, 1, 1])
    assert torch.equal(last_pixels, anchors)
    proposals = model.rpn.propose(regions, images, training=False)
    expected = proposals_of(slow, regions.logits[0][0], regions.deltas[0][0], anchors)
    assert int(proposals.valid.sum()) == len(expected)
    close(proposals.boxes[0, : len(expected)], expected)
    return expected[:40]


def check_detections(model, slow, close, images, some, logits, deltas):
    result = model.detect(images, some)
    boxes, scores, labels = detections_of(slow, logits, deltas, some.boxes[0])
    count = len(boxes)
    assert count > 20
    assert int(result.valid.sum()) == count
    assert result.labels[0, :count].tolist() == labels
    close(result.boxes[0, :count], boxes)
    close(result.scores[0, :count], scores)


def proposed(boxes):
    return Proposals(boxes[None], torch.ones(1, len(boxes)), torch.ones(1, len(boxes), dtype=torch.bool))


@pytest.mark.parametrize("net", ["zf", "vgg16"])
@torch.no_grad()
def test_faster_rcnn_says_what_py_faster_rcnn_would(net, narrow, slow, wire, picture, close, tmp_path):
    image = picture(HEIGHT, WIDTH)
    if net == "zf":
        weights, conv, channels, size = zf_weights(), "rpn_conv1", 256, 6
        map_ = zf_map(weights, input_of(image, PIXEL_MEANS))
    else:
        weights, conv, channels, size, inside = Weights(), "rpn_conv/3x3", 512, 7, 3
        for name, out in VGG_CONVS:
            weights.conv(name, out, inside, 3)
            inside = out
        weights.fc("fc6", NARROW, 25088)
        weights.fc("fc7", 4096, NARROW)
        map_ = vgg_maps(weights, input_of(image, PIXEL_MEANS))[-1]
    add_rpn(weights, channels, 32, conv)
    weights.fc("cls_score", 21, 4096)
    weights.fc("bbox_pred", 84, 4096)
    logits, deltas = rpn(weights, map_, conv)
    weights.tame("rpn_cls_score", logits, 3)
    weights.tame("rpn_bbox_pred", deltas, 0.3)

    def head(boxes):
        x = torch.stack([slow.roi_max(map_[0], box, size) for box in boxes])
        x = weights("fc7", weights("fc6", x).relu()).relu()
        return weights("cls_score", x), weights("bbox_pred", x)

    logits, deltas = head(anchors_of(5, 7)[:40].clamp(min=0, max=150))
    weights.tame("cls_score", logits, 2)
    weights.tame("bbox_pred", deltas, 0.1)  # final models say deltas plainly: trained ones had this deviation
    path = tmp_path / f"{net}_faster_rcnn_final.caffemodel"
    path.write_bytes(wire.net(weights))

    imported = caffe.read(path, Asked())
    model = built(imported)
    assert imported.system == f"faster-rcnn/{net}"
    assert imported.classes[0] == "aeroplane"
    images = ImageBatch(image[None], torch.tensor([[HEIGHT, WIDTH]], dtype=torch.float32))
    maps = model.backbone(images)
    close(maps[0], map_)
    boxes = check_regions(model, weights, slow, close, images, map_, conv)
    # Regions that are rounded to the same cells score the same, and which of two equals comes first is open.
    cells = {tuple(row): index for index, row in enumerate((boxes / 16 + 0.5).floor().tolist())}
    boxes = boxes[sorted(cells.values())]
    some = proposed(boxes)
    output = model.reader(maps)(some.boxes, some.valid)
    logits, deltas = head(boxes)
    close(output.logits[0], logits[:, [*range(1, 21), 0]])
    close(output.deltas[0] / torch.tensor([10, 10, 5, 5]), deltas.view(-1, 21, 4)[:, 1:])
    check_detections(model, slow, close, images, some, output.logits[0].roll(1, 1), deltas)


def rfcn_weights():
    """ResNet-50 as R-FCN's definition has it: a bias before the first batch norm, none elsewhere."""
    weights = Weights()
    weights.conv("conv1", 64, 3, 7)
    weights.norm("_conv1", 64)
    channels = 64
    for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)):
        width = 64 << (stage - 2)
        for block in range(count):
            name = f"{stage}{'abcdef'[block]}_branch"
            branches = [("2a", width, channels, 1), ("2b", width, width, 3), ("2c", width * 4, width, 1)]
            for branch, out, inside, side in branches + ([("1", width * 4, channels, 1)] if block == 0 else []):
                weights.conv(f"res{name}{branch}", out, inside, side, bias=False)
                weights.norm(f"{name}{branch}", out, 0.4 if branch == "2c" else 1.0)
            channels = width * 4
    weights.conv("conv_new_1", 64, 2048, 1)
    weights.conv("rfcn_cls", 21 * 49, 64, 1)
    weights.conv("rfcn_bbox", 8 * 49, 64, 1)
    return weights


def normed(weights, name, x, *window):
    """Convolution, BatchNorm and Scale."""
    norm = name.removeprefix("res") if name.startswith("res") else f"_{name}"
    mean, var, count = weights[f"bn{norm}"]
    gamma, beta = (each[:, None, None] for each in weights[f"scale{norm}"])
    y = weights(name, x, *window)
    return (y - (mean / count)[:, None, None]) / torch.sqrt((var / count)[:, None, None] + 1e-5) * gamma + beta


def position_sensitive(map_, box, outputs, k=7):
    """psroi_pooling_layer.cu, then the mean over the bins: [outputs]."""

    def nearest(value):
        return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)

    x1, y1 = nearest(float(box[0])) / 16, nearest(float(box[1])) / 16
    x2, y2 = (nearest(float(box[2])) + 1) / 16, (nearest(float(box[3])) + 1) / 16
    width, height = max(x2 - x1, 0.1) / k, max(y2 - y1, 0.1) / k
    total = torch.zeros(outputs)
    for i in range(k):
        for j in range(k):
            rows = slice(max(math.floor(i * height + y1), 0), max(math.ceil((i + 1) * height + y1), 0))
            columns = slice(max(math.floor(j * width + x1), 0), max(math.ceil((j + 1) * width + x1), 0))
            part = map_[i * k + j :: k * k, rows, columns]  # channel (c·k + i)·k + j
            if part.numel():
                total += part.mean((1, 2))
    return total / (k * k)


@torch.no_grad()
def test_rfcn_says_what_its_release_would(slow, wire, picture, close, tmp_path):
    weights, image = rfcn_weights(), picture(HEIGHT, WIDTH)

    def layer(name, x, *window):
        stage, block, branch = name.split(".")
        return normed(weights, f"{stage}{'abcdef'[int(block)]}_{branch}", x, *window)

    x = normed(weights, "conv1", input_of(image, PIXEL_MEANS), 2, 3).relu()
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    maps = slow.resnet(layer, x, {2: 3, 3: 4, 4: 6, 5: 3}, dilated=True)
    add_rpn(weights, 1024, 32)
    logits, deltas = rpn(weights, maps[4])
    weights.tame("rpn_cls_score", logits, 3)
    weights.tame("rpn_bbox_pred", deltas, 0.3)
    hidden = weights("conv_new_1", maps[5]).relu()

    def head(boxes):
        scores, moves = weights("rfcn_cls", hidden)[0], weights("rfcn_bbox", hidden)[0]
        each = [(position_sensitive(scores, box, 21), position_sensitive(moves, box, 8)) for box in boxes]
        return torch.stack([pair[0] for pair in each]), torch.stack([pair[1] for pair in each])

    logits, deltas = head(anchors_of(5, 7)[:20].clamp(min=0, max=150))
    weights.tame("rfcn_cls", logits, 2)
    weights.tame("rfcn_bbox", deltas, 0.1)
    path = tmp_path / "resnet50_rfcn_final.caffemodel"
    path.write_bytes(wire.net(weights))

    imported = caffe.read(path, Asked(model="rfcn"))
    model = built(imported)
    assert imported.system == "rfcn/resnet50-c5"
    images = ImageBatch(image[None], torch.tensor([[HEIGHT, WIDTH]], dtype=torch.float32))
    found = model.backbone(images)
    close(found[0], maps[4])
    close(found[1], maps[5])
    boxes = check_regions(model, weights, slow, close, images, maps[4], "rpn_conv/3x3")
    some = proposed(boxes)
    output = model.reader(found)(some.boxes, some.valid)
    logits, deltas = head(boxes)
    close(output.logits[0], logits[:, [*range(1, 21), 0]])
    close(output.deltas[0, :, 0] / torch.tensor([10, 10, 5, 5]), deltas[:, 4:])
    check_detections(model, slow, close, images, some, output.logits[0].roll(1, 1), deltas)


def bilinear(classes, factor, mixed=False):
    """surgery.py's kernels of 2 · factor, one a class on the diagonal."""
    size = 2 * factor
    line = 1 - (torch.arange(size) - (factor - 0.5)).abs() / factor
    weight = torch.zeros(classes, classes, size, size)
    weight[range(classes), range(classes)] = line[:, None] * line
    if mixed:
        weight[0, 1] = 0.1
    return [weight]


def fcn_weights(finest=8):
    weights, inside = Weights(), 3
    for name, out in VGG_CONVS:
        weights.conv(name, out, inside, 3)
        inside = out
    weights.conv("fc6", NARROW, 512, 7)
    weights.conv("fc7", 4096, NARROW, 1)
    weights.conv("score_fr", 21, 4096, 1)
    if finest == 32:
        weights["upscore"] = bilinear(21, 32)
        return weights
    weights["upscore2"] = bilinear(21, 2)
    weights.conv("score_pool4", 21, 512, 1)
    if finest == 16:
        weights["upscore16"] = bilinear(21, 16)
        return weights
    weights["upscore_pool4"] = bilinear(21, 2)
    weights.conv("score_pool3", 21, 256, 1)
    weights["upscore8"] = bilinear(21, 8)
    weights["scale_pool4"], weights["scale_pool3"] = [torch.full((512,), 0.01)], [torch.full((256,), 0.0001)]
    return weights


@pytest.mark.parametrize("learned", [False, True])
@torch.no_grad()
def test_fcn_scores_pixels_as_its_release_would(learned, narrow, wire, picture, close, tmp_path):
    height, width = 64, 96
    weights, image = fcn_weights(), picture(64, 96)
    if learned:  # the first two may be; each class keeps a kernel of its own
        for name in ("upscore2", "upscore_pool4"):
            kernel = weights[name][0]
            kernel[range(21), range(21)] += 0.05 * weights.normal(21, 4, 4)
    pool3, pool4, x = vgg_maps(weights, input_of(image, FCN_MEAN), border=100)
    x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = weights("score_fr", weights("fc7", weights("fc6", x).relu()).relu())
    x = F.conv_transpose2d(x, weights["upscore2"][0], stride=2)
    x = x + weights("score_pool4", pool4 * 0.01)[..., 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = F.conv_transpose2d(x, weights["upscore_pool4"][0], stride=2)
    x = x + weights("score_pool3", pool3 * 0.0001)[..., 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    x = F.conv_transpose2d(x, weights["upscore8"][0], stride=8)
    expected = x[..., 31 : 31 + height, 31 : 31 + width]

    path = tmp_path / "fcn8s.caffemodel"
    path.write_bytes(wire.net(weights, old=True))
    imported = caffe.read(path, Asked())
    assert imported.system == "fcn-8s/vgg16-skip"
    assert imported.settings["head"]["upsampling"] == ("learned" if learned else "fixed")
    model = built(imported)
    images = ImageBatch(image[None], torch.tensor([[height, width]], dtype=torch.float32))
    close(model.scores(images)[0], expected[0, [*range(1, 21), 0]])


@pytest.mark.parametrize("finest", [16, 32])
def test_shorter_fcns_are_known_by_their_layers(finest, narrow, wire, tmp_path):
    path = tmp_path / "fcn.caffemodel"
    path.write_bytes(wire.net(fcn_weights(finest)))
    imported = caffe.read(path, Asked())
    assert imported.system == f"fcn-{finest}s/vgg16-skip"
    assert imported.notes == ["the file says no names: its 20 classes are taken for VOC's"]
    built(imported)


def test_an_up_sampling_that_ours_cannot_do_is_refused(narrow, wire, tmp_path):
    weights, path = fcn_weights(16), tmp_path / "fcn.caffemodel"
    weights["upscore2"] = bilinear(21, 2, mixed=True)
    path.write_bytes(wire.net(weights))
    with pytest.raises(UserError, match="an up-sampling 'upscore2' that mixes classes"):
        caffe.read(path, Asked())
    weights["upscore2"], weights["upscore16"] = bilinear(21, 2), [0.5 * bilinear(21, 16)[0]]
    path.write_bytes(wire.net(weights))
    with pytest.raises(UserError, match="a learned 'upscore16'"):
        caffe.read(path, Asked())


def test_a_classifier_is_a_start_for_training(narrow, wire, tmp_path):
    weights, path = zf_weights(), tmp_path / "ZF.v2.caffemodel"
    weights.fc("fc8", 10, 4096)
    path.write_bytes(wire.net(weights, old=True))
    with pytest.raises(UserError, match=r"is a classifier and detects nothing: train on it with --weights .*'zf'"):
        caffe.read(path, Asked())
    backbone = backbones.create("zf", weights=path)
    assert torch.equal(backbone.body.conv2.weight, weights["conv2"][0])
    assert torch.equal(backbone.head.fc6.bias, weights["fc6"][1])
    assert backbone.loaded.unused == ("fc8.weight", "fc8.bias")
    assert backbone.normalise.mean_colour.tolist() == pytest.approx([122.7717, 115.9465, 102.9801], abs=1e-3)
    with pytest.raises(UserError, match="is Caffe's, and for 'resnet18-c4' this library knows no weights of Caffe's"):
        backbones.create("resnet18-c4", weights=path)


def test_vgg16s_layers_are_known_by_their_names(narrow, wire, tmp_path):
    weights, path = fcn_weights(32), tmp_path / "VGG16.v2.caffemodel"
    weights["fc6"] = [weights["fc6"][0].flatten(1), weights["fc6"][1]]
    weights["fc7"] = [weights["fc7"][0].flatten(1), weights["fc7"][1]]
    del weights["score_fr"], weights["upscore"]
    path.write_bytes(wire.net(weights, old=True))
    with pytest.raises(UserError, match="is a classifier"):
        caffe.read(path, Asked())
    backbone = backbones.create("vgg16", weights=path)
    assert torch.equal(backbone.body[28].weight, weights["conv5_3"][0])
    assert torch.equal(backbone.head[0].weight, weights["fc6"][0])
    assert backbone.normalise.order.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc7"), "lacks 'fc7.weight', of shape"),
        (lambda w: w.update(fc7=[torch.zeros(4096, 7), torch.zeros(4096)]), r"'fc7.weight' of shape \[4096, 7\]"),
        (lambda w: w.update(bbox_pred=[torch.zeros(83, 4096), torch.zeros(83)]), r"'bbox_pred.weight' of shape \[79"),
        (lambda w: w.update(rpn_cls_score=[torch.zeros(10, 8, 1, 1), torch.zeros(10)]), "has 5 anchors a place"),
        (lambda w: w.update(cls_score=[torch.zeros(8, 4096), torch.zeros(8)]), r"'bbox_pred.weight' of shape \[80"),
        (lambda w: w.update(conv3=[torch.zeros(3, 3, 3, 3), torch.zeros(3)]), "has another backbone"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(change, message, narrow, wire, tmp_path):
    weights, path = zf_weights(), tmp_path / "zf.caffemodel"
    add_rpn(weights, 256, 8)
    weights.fc("cls_score", 21, 4096)
    weights.fc("bbox_pred", 84, 4096)
    change(weights)
    path.write_bytes(wire.net(weights))
    with pytest.raises(UserError, match=message) as refusal:
        caffe.read(path, Asked())
    assert "\n" not in str(refusal.value)


def test_other_layers_are_left_out_and_said(narrow, wire, tmp_path):
    weights, path = zf_weights(), tmp_path / "zf.caffemodel"
    add_rpn(weights, 256, 8)
    weights.fc("cls_score", 3, 4096)
    weights.fc("bbox_pred", 12, 4096)
    weights.conv("extra", 2, 2, 1)
    path.write_bytes(wire.net(weights))
    imported = caffe.read(path, Asked(classes=("cat", "dog")))
    assert imported.notes == ["1 layers of the file have no place and were left out, first 'extra'"]
    assert imported.classes == ("cat", "dog")
    with pytest.raises(UserError, match="has 2 classes beside the background, and --classes names 1"):
        caffe.read(path, Asked(classes=("cat",)))
    with pytest.raises(UserError, match="the layers of 'faster-rcnn', not of --model 'rfcn'"):
        caffe.read(path, Asked(model="rfcn"))
