"""Detectors forward, one image and one region at a time, in plain torch: nothing here is the library's."""

import math

import torch
from torch.nn import functional as F
from torchvision import ops

LIMIT = math.log(1000 / 16)


def resnet(layer, x, blocks, *, dilated=False, stages=(2, 3, 4, 5)):
    """Maps behind each of `stages` [1, C, h, w] of a ResNet whose first 1×1 of a stage strides.

    `layer(name, x, stride, padding, dilation)` is a convolution and its batch norm: "res2.0.branch1" the shortcut,
    "res2.0.branch2a" to "2c" the three of the branch. `blocks` is how many each stage has, by its number.
    """
    maps = {}
    for stage in stages:
        spread = 2 if dilated and stage == 5 else 1
        for block in range(blocks[stage]):
            stride = 2 if block == 0 and stage > 2 and spread == 1 else 1
            name = f"res{stage}.{block}"
            shortcut = layer(f"{name}.branch1", x, stride, 0, 1) if block == 0 else x
            y = layer(f"{name}.branch2a", x, stride, 0, 1).relu()
            y = layer(f"{name}.branch2b", y, 1, spread, spread).relu()
            x = (layer(f"{name}.branch2c", y, 1, 0, 1) + shortcut).relu()
        maps[stage] = x
    return maps


def decode(deltas, boxes, weights=(1, 1, 1, 1), plus=0.0, limit=LIMIT):
    """Boxes [N, 4] moved by deltas [N, 4]; sides are x2 − x1 + `plus`."""
    width, height = boxes[:, 2] - boxes[:, 0] + plus, boxes[:, 3] - boxes[:, 1] + plus
    x, y = boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height
    dx, dy, dw, dh = (deltas[:, i] / weights[i] for i in range(4))
    x, y = x + dx * width, y + dy * height
    width, height = width * dw.clamp(max=limit).exp(), height * dh.clamp(max=limit).exp()
    return torch.stack((x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height), 1)


def clipped(boxes, height, width):
    """Boxes [N, 4] cut at 0 and at these."""
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def greedy(boxes, scores, threshold, plus=0.0):
    """The boxes that NMS keeps, best first, by IoU > threshold of sides x2 − x1 + `plus`."""
    grown = boxes.clone()
    grown[:, 2:] += plus
    return ops.nms(grown, scores, threshold)


def roi_max(feature, box, size, scale=1 / 16):
    """Caffe's RoI max pooling of one box from a map [C, h, w]: [C, size, size]."""

    def nearest(value):
        return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)

    x1, y1, x2, y2 = (nearest(float(value) * scale) for value in box)
    height, width = max(y2 - y1 + 1, 1) / size, max(x2 - x1 + 1, 1) / size
    pooled = torch.zeros(len(feature), size, size)
    for i in range(size):
        for j in range(size):
            top, bottom = math.floor(i * height) + y1, math.ceil((i + 1) * height) + y1
            left, right = math.floor(j * width) + x1, math.ceil((j + 1) * width) + x1
            part = feature[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            if part.numel():
                pooled[:, i, j] = part.amax((1, 2))
    return pooled


def linear(x, weight, bias):
    """A fully connected layer that reads what comes in channel by channel."""
    return F.linear(x.flatten(1), weight, bias)
