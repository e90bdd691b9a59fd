"""torchvision's detectors with random weights that behave: statistics taken of pictures, tens of detections each.

Freshly made detectors find nothing, or everything alike, and neither tests nor timings mean much on them.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.resnet import Bottleneck
from torchvision.ops.misc import SqueezeExcitation


def as_tensor(image):
    """uint8 [H, W, 3] as torchvision's detectors want it: [3, H, W] from 0 to 1."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


@torch.no_grad()
def spread(layer, inputs, mean, std, *, apart=False):
    """Gives the layer weights by which each of its outputs has this mean and deviation over `inputs`.

    With `apart`, what of inputs [N, D], one an image, tells the images apart is left unread: else a random layer would
    find everything in one image and nothing in the next.
    """
    nn.init.normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    if apart:
        means = torch.stack([each.mean(0) for each in inputs])
        basis = torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh[:-1]  # [images - 1, D]
        layer.weight.sub_(layer.weight @ basis.T @ basis)
    outputs = torch.cat([layer(each).transpose(0, 1).flatten(1) for each in inputs], 1)  # [outputs, N]
    factor = (std / outputs.std(1)).view(-1, *[1] * (layer.weight.ndim - 1))
    layer.weight.mul_(factor)
    layer.bias.copy_(mean - outputs.mean(1) * factor.flatten())


def inputs_of(layer, run):
    """What the layer gets while `run` runs."""
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach().clone()))
    try:
        run()
    finally:
        hook.remove()
    return seen


def ends_of_branches(model):
    """The batch norms at the end of residual branches."""
    for block in model.modules():
        if isinstance(block, Bottleneck):
            yield block.bn3
        elif isinstance(block, InvertedResidual) and block.use_res_connect:
            yield block.block[-1][1]


@torch.no_grad()
def calibrated(name, images, classes=5, share=0.06, seed=0, shrink=1, **options):
    """torchvision's detector `name` in evaluation mode; `share` of its proposals become candidates of some class.

    Statistics are taken of the images at a `shrink`-th of the detector's size.
    """
    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes + 1, **options).eval()
    pictures = [as_tensor(image) for image in images]

    kept = model.transform.min_size, model.rpn._post_nms_top_n, model.roi_heads.detections_per_img
    model.transform.min_size = tuple(side // shrink for side in kept[0])
    model.rpn._post_nms_top_n, model.roi_heads.detections_per_img = {"testing": 100}, 10  # enough for statistics

    def run():
        for picture in pictures:
            model([picture])

    for conv in (*model.backbone.modules(), *(model.roi_heads.mask_head or nn.Identity()).modules()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            # Smoothed, so that regions differ by more than their texture, which pooling would average away, and masks
            # are of a few pieces.
            conv.weight.add_(conv.weight.mean((2, 3), keepdim=True))
    for gate in model.backbone.modules():
        if isinstance(gate, SqueezeExcitation):  # mild, or whole images would be some times brighter than others
            gate.fc2.weight.mul_(0.1)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None  # the mean over all pictures
        norm.train()
    for norm in ends_of_branches(model):  # as in trained networks, whose shortcuts carry the most
        norm.weight.mul_(0.3)
    run()
    model.eval()
    head, last = model.rpn.head, model.roi_heads.box_predictor
    maps = inputs_of(head.cls_logits, run)
    spread(head.cls_logits, maps, -1.0, 2.0)
    spread(head.bbox_pred, maps, 0.0, 0.25)
    if "v2" in name:
        for norm in norms:
            norm.train()
        run()
        model.eval()
    for layer in model.roi_heads.box_head.children():
        if isinstance(layer, nn.Linear):
            spread(layer, inputs_of(layer, run), 0.0, 1.0)
    features = inputs_of(last.cls_score, run)
    spread(last.cls_score, features, 0.0, 1.0, apart=True)
    spread(last.bbox_pred, features, 0.0, 0.7)
    logits = torch.cat([last.cls_score(each) for each in features])[:, 1:].double()
    limits = (logits.amax(1).exp() / 0.05 - logits.exp().sum(1)).clamp(min=1e-3).log().sort().values
    last.cls_score.weight[0] *= 0.1
    level = torch.cat([each @ last.cls_score.weight[0] for each in features]).mean()
    last.cls_score.bias[0] = limits[int(len(limits) * (1 - share))] - level
    if "mask" in name:
        deconv = model.roi_heads.mask_predictor
        spread(deconv.mask_fcn_logits, inputs_of(deconv.mask_fcn_logits, run), 1.0, 3.0)
    model.transform.min_size, model.rpn._post_nms_top_n, model.roi_heads.detections_per_img = kept
    return model
