"""Detectron2's files in their own layout, read, and held against a forward pass by Detectron2's conventions."""

import math
import pickle

import pytest
import torch
from torch.nn import functional as F
from torchvision import ops

from rcnn.errors import UserError
from rcnn.interop import Asked, built, detectron2
from rcnn.structures import ImageBatch, Proposals

BLOCKS = {50: {2: 3, 3: 4, 4: 6, 5: 3}, 101: {2: 3, 3: 4, 4: 23, 5: 3}}
MEAN = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)


class Checkpoint:
    """Random weights under Detectron2's names; layers that only a configuration sizes are narrow."""

    def __init__(self, form, *, depth=50, classes=20, mask=True, rpn=True, agnostic=False, hidden=48):
        self.rng, self.state = torch.Generator().manual_seed(depth), {}
        self.form, self.blocks, self.mask, self.rpn = form, BLOCKS[depth], mask, rpn
        self.body = "backbone.bottom_up." if form == "FPN" else "backbone."
        self.conv_norm(f"{self.body}stem.conv1", 64, 3, 7)
        channels = 64
        for stage in (2, 3, 4, 5):
            width, start = 64 << (stage - 2), self.stage(stage)
            for block in range(self.blocks[stage]):
                if block == 0:
                    self.conv_norm(f"{start}.0.shortcut", width * 4, channels, 1)
                self.conv_norm(f"{start}.{block}.conv1", width, channels, 1)
                self.conv_norm(f"{start}.{block}.conv2", width, width, 3)
                self.conv_norm(f"{start}.{block}.conv3", width * 4, width, 1, scale=0.4)
                channels = width * 4
        maps = {"FPN": 256, "C4": 1024, "DC5": 2048}[form]
        if form == "FPN":
            for level in (2, 3, 4, 5):
                self.layer(f"backbone.fpn_lateral{level}", 256, 64 << level, 1)
                self.layer(f"backbone.fpn_output{level}", 256, 256, 3)
        anchors = 3 if form == "FPN" else 15
        if rpn:
            start = "proposal_generator.rpn_head."
            self.layer(f"{start}conv", hidden, maps, 3)
            self.layer(f"{start}objectness_logits", anchors, hidden, 1)
            self.layer(f"{start}anchor_deltas", 4 * anchors, hidden, 1, gain=0.5)
        if form != "C4":
            self.layer("roi_heads.box_head.fc1", hidden, maps * 49)
            self.layer("roi_heads.box_head.fc2", hidden, hidden)
        last = 2048 if form == "C4" else hidden
        self.layer("roi_heads.box_predictor.cls_score", classes + 1, last, gain=3)
        self.layer("roi_heads.box_predictor.bbox_pred", 4 * (1 if agnostic else classes), last)
        if mask:
            start = "roi_heads.mask_head."
            for number in range(0 if form == "C4" else 4):
                self.layer(f"{start}mask_fcn{number + 1}", 24, maps if number == 0 else 24, 3)
            inside = 2048 if form == "C4" else 24
            self.state[f"{start}deconv.weight"] = self.normal(inside, 16, 2, 2, std=math.sqrt(2 / inside))
            self.state[f"{start}deconv.bias"] = self.normal(16, std=0.1)
            self.layer(f"{start}predictor", 1 if agnostic else classes, 16, 1)

    def normal(self, *shape, std=1.0):
        return torch.randn(shape, generator=self.rng) * std

    def layer(self, name, out, inside, side=0, gain=1.0):
        shape = (out, inside, side, side) if side else (out, inside)
        self.state[f"{name}.weight"] = self.normal(*shape, std=gain * math.sqrt(2 / (inside * max(side, 1) ** 2)))
        self.state[f"{name}.bias"] = self.normal(out, std=0.1)

    def conv_norm(self, name, out, inside, side, scale=1.0):
        self.state[f"{name}.weight"] = self.normal(out, inside, side, side, std=math.sqrt(2 / (inside * side * side)))
        self.state[f"{name}.norm.weight"] = scale * (1 + 0.2 * self.normal(out))
        self.state[f"{name}.norm.bias"] = 0.2 * self.normal(out)
        self.state[f"{name}.norm.running_mean"] = 0.2 * self.normal(out)
        self.state[f"{name}.norm.running_var"] = 0.5 + torch.rand(out, generator=self.rng)

    def stage(self, number):
        return "roi_heads.res5" if self.form == "C4" and number == 5 else f"{self.body}res{number}"

    def norm(self, name, x, stride, padding, dilation):
        """A convolution and its frozen batch norm."""
        y = F.conv2d(x, self.state[f"{name}.weight"], None, stride, padding, dilation)
        weight, bias, mean, var = (
            self.state[f"{name}.norm.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def named(self, name, *rest):
        """`norm` under the names of `slow.resnet`."""
        stage, block, branch = name.split(".")
        part = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}[branch]
        return self.norm(f"{self.stage(int(stage[3:]))}.{block}.{part}", *rest)

    def conv(self, name, x, padding=0):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding)

    def linear(self, name, x):
        return F.linear(x.flatten(1), self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def maps(self, slow, picture):
        """The maps [1, C, h, w] that RPN and heads read, finest first."""
        x = (picture.flip(0).float() - MEAN)[None]
        x = F.max_pool2d(self.norm(f"{self.body}stem.conv1", x, 2, 3, 1).relu(), 3, 2, 1)
        stages = (2, 3, 4) if self.form == "C4" else (2, 3, 4, 5)
        maps = slow.resnet(self.named, x, self.blocks, dilated=self.form == "DC5", stages=stages)
        if self.form != "FPN":
            return [maps[max(stages)]]
        found, above = {}, None
        for level in (5, 4, 3, 2):
            lateral = self.conv(f"backbone.fpn_lateral{level}", maps[level])
            above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
            found[level] = self.conv(f"backbone.fpn_output{level}", above, 1)
        return [found[2], found[3], found[4], found[5], found[5][:, :, ::2, ::2]]

    def rpn_head(self, map_):
        """For each place and anchor, sizes outermost: logits [h·w, A] and deltas [h·w, A, 4]."""
        start = "proposal_generator.rpn_head."
        hidden = self.conv(f"{start}conv", map_, 1).relu()
        logits = self.conv(f"{start}objectness_logits", hidden)[0].permute(1, 2, 0).flatten(0, 1)
        deltas = self.conv(f"{start}anchor_deltas", hidden)[0].permute(1, 2, 0).flatten(0, 1)
        return logits, deltas.unflatten(1, (-1, 4))

    def anchors(self, level, height, width):
        """[h·w, A, 4]: sizes outermost, centred on the corners of the cells."""
        stride, sizes = (4 << level, SIZES[level : level + 1]) if self.form == "FPN" else (16, SIZES)
        cell = []
        for size in sizes:
            for ratio in RATIOS:
                w = math.sqrt(size * size / ratio)
                cell.append((-w / 2, -w * ratio / 2, w / 2, w * ratio / 2))
        y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
        centre = torch.stack((x, y, x, y), -1).view(-1, 1, 4)
        return centre + torch.tensor(cell)

    def proposals(self, slow, said, anchors, height, width):
        """The best 1,000 boxes [N, 4] of what `rpn_head` says of each map, and of its anchors."""
        boxes, scores = [], []
        for (logits, deltas), laid in zip(said, anchors, strict=True):
            logits, deltas = logits.flatten(), deltas.flatten(0, 1)
            order = logits.argsort(descending=True)[: 1000 if self.form == "FPN" else 6000]
            box = slow.clipped(slow.decode(deltas[order], laid.flatten(0, 1)[order]), height, width)
            solid = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
            box, logit = box[solid], logits[order][solid]
            kept = slow.greedy(box, logit, 0.7)
            boxes.append(box[kept])
            scores.append(logit[kept])
        best = torch.cat(scores).argsort(descending=True)[:1000]
        return torch.cat(boxes)[best]

    def pooled(self, maps, boxes, size):
        """Regions [N, C, size, size], each from the map of its size."""
        if self.form != "FPN":
            return ops.roi_align(maps[0], [boxes], size, 1 / 16, 0, aligned=True)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        level = (4 + torch.log2(area.sqrt() / 224 + 1e-8)).floor().clamp(2, 5)
        each = [
            ops.roi_align(maps[int(k) - 2], [box[None]], size, 1 / 2**k, 0, aligned=True)
            for box, k in zip(boxes, level.tolist(), strict=True)
        ]
        return torch.cat(each)

    def res5(self, slow, x):
        # A stage after the strided ones begins with a stride, as res3 does.
        return slow.resnet(self.named, x, self.blocks, stages=(5,))[5]

    def box_head(self, slow, maps, boxes):
        """Logits [N, K+1], background last, and deltas [N, K or 1, 4]."""
        if self.form == "C4":
            x = self.res5(slow, self.pooled(maps, boxes, 14)).mean((2, 3))
        else:
            x = self.linear("roi_heads.box_head.fc1", self.pooled(maps, boxes, 7)).relu()
            x = self.linear("roi_heads.box_head.fc2", x).relu()
        start = "roi_heads.box_predictor."
        return self.linear(f"{start}cls_score", x), self.linear(f"{start}bbox_pred", x).unflatten(1, (-1, 4))

    def mask_head(self, slow, maps, boxes, labels):
        """Logits [N, M, M] of the maps of these labels."""
        start = "roi_heads.mask_head."
        x = self.pooled(maps, boxes, 14)
        if self.form == "C4":
            x = self.res5(slow, x)
        else:
            for number in range(4):
                x = self.conv(f"{start}mask_fcn{number + 1}", x, 1).relu()
        x = F.conv_transpose2d(
            x, self.state[f"{start}deconv.weight"], self.state[f"{start}deconv.bias"], stride=2
        ).relu()
        x = self.conv(f"{start}predictor", x)
        return torch.stack([m[label if len(m) > 1 else 0] for m, label in zip(x, labels.tolist(), strict=True)])

    def detections(self, slow, logits, deltas, proposals, height, width):
        """Boxes, scores and labels of the best 100, best first."""
        scores = logits.softmax(-1)[:, :-1]
        found = []
        for label in range(scores.shape[1]):
            wanted = scores[:, label] > 0.05
            delta = deltas[wanted, label if deltas.shape[1] > 1 else 0]
            boxes = slow.clipped(slow.decode(delta, proposals[wanted], (10, 10, 5, 5)), height, width)
            kept = slow.greedy(boxes, scores[wanted, label], 0.5)
            found += [(scores[wanted, label][k].item(), boxes[k], label) for k in kept]
        found = sorted(found, key=lambda entry: -entry[0])[:100]
        return (
            torch.stack([f[1] for f in found]),
            torch.tensor([f[0] for f in found]),
            torch.tensor([f[2] for f in found]),
        )

    def tame(self, slow, maps, height, width):
        """Scales what the last layers say to what trained ones do, so that there are detections to compare."""

        def scale(name, values, std):
            for part in ("weight", "bias"):
                self.state[f"{name}.{part}"] *= std / values.std()

        start = "proposal_generator.rpn_head."
        said = [self.rpn_head(map_) for map_ in maps]
        scale(f"{start}objectness_logits", torch.cat([logits.flatten() for logits, _ in said]), 3)
        scale(f"{start}anchor_deltas", torch.cat([deltas.flatten() for _, deltas in said]), 0.3)
        anchors = [self.anchors(level, *map_.shape[-2:]) for level, map_ in enumerate(maps)]
        boxes = self.proposals(slow, [self.rpn_head(map_) for map_ in maps], anchors, height, width)[:40]
        logits, deltas = self.box_head(slow, maps, boxes)
        scale("roi_heads.box_predictor.cls_score", logits, 2)
        scale("roi_heads.box_predictor.bbox_pred", deltas, 1)
        if self.mask:
            features = self.mask_head(slow, maps, boxes, torch.zeros(len(boxes), dtype=torch.long))
            scale("roi_heads.mask_head.predictor", features, 2)

    def save(self, path):
        """As the zoo's .pkl, or as a trainer's .pth."""
        if path.suffix == ".pkl":
            content = {key: value.numpy() for key, value in self.state.items()}
            path.write_bytes(pickle.dumps({"model": content, "__author__": "Detectron2 Model Zoo"}, protocol=4))
        else:
            torch.save({"model": self.state, "iteration": 89999, "scheduler": {"last_epoch": 90000}}, path)
        return path


@pytest.mark.parametrize(
    ("name", "file", "options"),
    [
        ("mask_rcnn_R_50_FPN", "model.pkl", {"form": "FPN"}),
        ("mask_rcnn_R_50_C4", "model.pth", {"form": "C4"}),
        ("faster_rcnn_R_50_DC5", "model.pth", {"form": "DC5", "mask": False, "agnostic": True, "hidden": 16}),
    ],
)
@torch.no_grad()
def test_a_model_says_what_detectron2_would(name, file, options, slow, picture, close, tmp_path):
    theirs = Checkpoint(**options)
    height, width = 160, 224
    image = picture(height, width)
    expected_maps = theirs.maps(slow, image)
    theirs.tame(slow, expected_maps, height, width)
    imported = detectron2.read(theirs.save(tmp_path / file), Asked(model=f"{name}_3x"))
    model = built(imported)
    assert imported.classes[:2] == ("aeroplane", "bicycle")
    images = ImageBatch(image[None], torch.tensor([[height, width]], dtype=torch.float32))

    maps = model.backbone(images)
    for found, expected in zip(maps, expected_maps, strict=True):
        close(found, expected)

    regions = model.rpn(maps, images)
    said, laid = [], []
    for level, map_ in enumerate(expected_maps):
        logits, deltas = theirs.rpn_head(map_)
        # Ours has the ratios outermost; on a pyramid a place has one size.
        sizes = 1 if theirs.form == "FPN" else 5
        order = [ratio * sizes + size for size in range(sizes) for ratio in range(3)]
        said.append(
            (
                regions.logits[level].view(-1, 3 * sizes)[:, order],
                regions.deltas[level].view(-1, 3 * sizes, 4)[:, order],
            )
        )
        laid.append(theirs.anchors(level, *map_.shape[-2:]))
        close(said[level][0], logits)
        close(said[level][1], deltas)
        close(regions.anchors[level].view(-1, 3 * sizes, 4)[:, order], laid[level], 1e-6)

    # What follows picks and sorts, so each step is held against the other's on the same numbers.
    proposals = model.rpn.propose(regions, images, training=False)
    boxes = theirs.proposals(slow, said, laid, height, width)
    assert int(proposals.valid.sum()) == len(boxes)
    close(proposals.boxes[0, : len(boxes)], boxes)

    boxes = boxes[:60]
    some = Proposals(boxes[None], torch.ones(1, len(boxes)), torch.ones(1, len(boxes), dtype=torch.bool))
    output = model.reader(maps)(some.boxes, some.valid)
    logits, deltas = theirs.box_head(slow, expected_maps, boxes)
    close(output.logits[0], logits)
    close(output.deltas[0], deltas)

    result = model.detect(images, some)
    found, scores, labels = theirs.detections(slow, output.logits[0], output.deltas[0], boxes, height, width)
    assert len(found) > 20
    assert int(result.valid.sum()) == len(found)
    assert result.labels[0, : len(found)].tolist() == labels.tolist()
    close(result.boxes[0, : len(found)], found)
    close(result.scores[0, : len(found)], scores)
    if theirs.mask:
        close(result.masks[0, : len(found)], theirs.mask_head(slow, expected_maps, found, labels).sigmoid(), 1e-3)


class Outline(Checkpoint):
    """The keys and shapes of a checkpoint, at the cost of a number each."""

    def normal(self, *shape, std=1.0):
        return torch.zeros(()).expand(shape)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """`detectron2.read` of a state dict, as if it lay in a file."""

    def run(state, **asked):
        monkeypatch.setattr(detectron2, "tensors", lambda path: dict(state))
        return detectron2.read(tmp_path / "model.pkl", Asked(**asked))

    return run


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("form", ["C4", "DC5", "FPN"])
@pytest.mark.parametrize(
    ("kind", "branches"), [("mask", {}), ("faster", {"mask": False}), ("fast", {"mask": False, "rpn": False})]
)
def test_every_form_is_known_by_its_keys(kind, branches, form, depth, read):
    imported = read(Outline(form, depth=depth, classes=80, **branches).state)
    assert imported.system == f"{kind}-rcnn/resnet{depth}-{ {'C4': 'c4', 'DC5': 'c5', 'FPN': 'fpn'}[form] }"
    assert imported.classes[:2] == ("person", "bicycle")
    assert "taken for COCO's" in imported.notes[0]
    assert len(imported.notes) == (2 if kind == "fast" else 1)
    if kind != "fast":
        assert imported.settings["rpn"]["post_nms"] == ((1000, 1000) if form == "FPN" else (2000, 1000))


def test_pixels_are_normalised_as_the_file_says(read):
    state = Outline("C4").state
    buffers = "backbone.normalise."
    plain = read(state)
    assert plain.state[f"{buffers}order"].tolist() == [2, 1, 0]
    assert plain.settings["backbone"]["stride_on"] == "1x1"
    state["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    other = read(state)
    assert other.state[f"{buffers}order"].tolist() == [0, 1, 2]
    assert other.state[f"{buffers}shift"].tolist() == pytest.approx(
        [-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375]
    )
    assert other.settings["backbone"]["stride_on"] == "3x3"
    state["pixel_std"] = torch.tensor([1.0, 0.0, 1.0])
    with pytest.raises(UserError, match="not three finite numbers"):
        read(state)


def test_statistics_that_a_first_release_left_out_are_0_and_1(read):
    state = Outline("C4").state
    del state["backbone.stem.conv1.norm.running_mean"], state["backbone.stem.conv1.norm.running_var"]
    imported = read(state, bn_eps=0.0)
    assert imported.state["backbone.body.bn1.running_mean"].eq(0).all()
    assert imported.state["backbone.body.bn1.running_var"].eq(1).all()
    assert imported.settings["backbone"]["eps"] == 0


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        ({"backbone.res3.1.conv2.weight": None}, {}, r"lacks 'backbone\.res3\.1\.conv2\.weight', of shape"),
        ({"backbone.res3.1.conv2.weight": torch.zeros(4)}, {}, r"of shape \[4\], expected \[128, 128, 3, 3\]"),
        (
            {"backbone.stem.extra": torch.zeros(4)},
            {},
            r"has no place for 1 of its tensors, first 'backbone\.stem\.extra'",
        ),
        ({"sem_seg_head.predictor.weight": torch.zeros(4)}, {}, "is a panoptic FPN of Detectron2; expected Fast"),
        ({"roi_heads.keypoint_head.conv_fcn1.weight": torch.zeros(4)}, {}, "is a keypoint detector of Detectron2"),
        ({"backbone.res2.0.conv2.weight": torch.zeros(256, 8, 3, 3)}, {}, "has another backbone"),
        ({"backbone.res4.6.conv1.weight": torch.zeros(4)}, {}, "has another backbone: 7 blocks in res4"),
        ({"roi_heads.box_predictor.cls_score.weight": None}, {}, "so it is no detector of Detectron2"),
        ({"roi_heads.box_predictor.cls_score.weight": torch.zeros(8, 2048)}, {}, "cls_score.bias"),
        (
            {},
            {"model": "mask_rcnn_R_50_FPN_3x"},
            "the keys of 'mask_rcnn_R_50_C4', not of --model 'mask_rcnn_R_50_FPN_3x'",
        ),
        ({}, {"classes": ("a", "b")}, "has 20 classes beside the background, and --classes names 2"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(change, asked, message, read):
    state = {key: value for key, value in (Outline("C4").state | change).items() if value is not None}
    with pytest.raises(UserError, match=message) as refusal:
        read(state, **asked)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("odd", [torch.zeros(()), torch.zeros(3), torch.zeros(2, 0)])
@pytest.mark.parametrize(
    "key",
    [
        *("box_predictor.cls_score.weight", "box_predictor.bbox_pred.weight", "mask_head.deconv.weight"),
        *("mask_head.deconv.bias", "mask_head.predictor.weight", "mask_head.mask_fcn2.weight", "box_head.fc1.weight"),
    ],
)
def test_odd_shapes_are_refused_wherever_a_size_is_read_from_them(key, odd, read):
    with pytest.raises(UserError):
        read(Outline("DC5").state | {f"roi_heads.{key}": odd})


def test_a_classifier_is_no_detector(read):
    with pytest.raises(UserError, match="has no keys of a Detectron2 detector"):
        read({"stem.conv1.weight": torch.zeros(64, 3, 7, 7)})


def test_a_shape_that_its_bytes_do_not_fill_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"roi_heads.box_head.fc1.weight": torch.zeros(()).expand(2**20, 2**20)}}, path)
    with pytest.raises(UserError, match=r"of shape \[1048576, 1048576\], which its bytes do not fill"):
        detectron2.read(path, Asked())


def test_other_files_are_refused_in_one_sentence(tmp_path):
    for name, content in (("a.pkl", b"nothing"), ("a.pth", b"nothing"), ("a.txt", b"nothing")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError) as refusal:
            detectron2.read(path, Asked())
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="does not exist"):
        detectron2.read(tmp_path / "nowhere.pkl", Asked())
