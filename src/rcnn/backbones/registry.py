"""The backbones by name, as a table: what each is, in which form, which weights fit it and what it starts from.

`create` builds one. A bare name such as `resnet50` is not in the table: the system that is asked for names the form
it was published with. Letters: none.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models as tv

from rcnn.backbones import alexnet, mobilenet, resnet, squeezenet, vgg, zf
from rcnn.backbones.backbone import Backbone, Tap, Trunk
from rcnn.backbones.folding import fold_norms
from rcnn.backbones.fpn import FPN
from rcnn.backbones.norm import NORMS, NormLayer, ValidRegion, add_norms, assign_strides, mask_poolings, norm_layer
from rcnn.backbones.weights import (
    FCN_STATISTICS,
    Loaded,
    WeightsEntry,
    caffe_entry,
    find,
    likest,
    load,
    torchvision_entry,
)
from rcnn.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """One backbone.

    Attributes:
        name: its full name.
        form: `plain`, `c4`, `c5`, `fpn`, or `skip`: the maps of strides 8, 16 and 32 as they are.
        build: its layers, made with a normalisation layer (networks without one ignore it).
        strides: of its maps in pixels, finest first, unless `levels` says otherwise.
        weights: published weights in its layout, the usual ones first.
        systems: the systems that were published with it.
        frozen_stages: how many of its first stages the published systems keep frozen.
        normed: whether the published network has normalisation layers.
        eps: of those layers.
        pyramid_norm: whether the pyramid's convolutions have them too.
        torchvision_taps: where torchvision's own detectors take this network's maps, if elsewhere.
    """

    name: str
    form: str
    build: Callable[[NormLayer], Trunk]
    strides: tuple[int, ...]
    weights: tuple[WeightsEntry, ...]
    systems: tuple[str, ...] = ()
    frozen_stages: int = 2
    normed: bool = True
    eps: float = 1e-5
    pyramid_norm: bool = False
    torchvision_taps: tuple[Tap, ...] = ()

    @functools.cached_property
    def parameters(self) -> int:
        """Trainable numbers of the published network's layers that are used, the pyramid with them."""
        with torch.device("meta"):
            return sum(p.numel() for p in _assemble(self, "batch" if self.normed else "none").parameters())


# A system that needs the maps of these strides as they are takes bare names for this form, also those that are names.
SKIP, SKIPS = "skip", (8, 16, 32)


def _resnet(depth: int, form: str, *files: str, systems: tuple[str, ...] = (), suffix: str = "") -> Entry:
    make = getattr(tv, f"resnet{depth}")
    return Entry(
        name=f"resnet{depth}-{form}{suffix}",
        form=form,
        build=functools.partial(resnet.trunk, make, form),
        strides=(4, 8, 16, 32, 64) if form == "fpn" else SKIPS if form == "skip" else (16,),
        weights=(torchvision_entry(*files),),
        systems=systems,
        frozen_stages=0 if form == "skip" else 2,
        pyramid_norm=bool(suffix),
    )


def _mobilenet(version: str, form: str, *files: str) -> Entry:
    second = version == "v2"
    make = tv.mobilenet_v2 if second else tv.mobilenet_v3_large
    taps = mobilenet.TORCHVISION_TAPS_V2 if second else mobilenet.TORCHVISION_TAPS_V3
    return Entry(
        name=f"mobilenet{version}{'' if form == 'plain' else f'-{form}'}",
        form=form,
        build=functools.partial(mobilenet.trunk, make, form),
        strides=(8, 16, 32, 64) if form == "fpn" else SKIPS if form == "skip" else (16,),
        weights=(torchvision_entry(*files, body="features.", head="features."),),
        frozen_stages=0 if form == "skip" else 2,
        eps=1e-5 if second else 1e-3,
        torchvision_taps=taps if form == "fpn" else (),
    )


def _plain(
    name: str, build: Callable[[], Trunk], weights: tuple[WeightsEntry, ...], systems: tuple[str, ...], frozen: int
) -> Entry:
    return Entry(name, "plain", lambda norm: build(), (16,), weights, systems, frozen, normed=False)


RESNET_FILES = {
    18: ("resnet18-f37072fd.pth",),
    34: ("resnet34-b627a593.pth",),
    50: ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
    101: ("resnet101-63fe2227.pth", "resnet101-cd907fc2.pth"),
}
RESNET_SYSTEMS = {
    "resnet50-c4": ("mask-rcnn",),
    "resnet101-c4": ("faster-rcnn", "mask-rcnn"),
    "resnet50-c5": ("rfcn",),
    "resnet101-c5": ("rfcn",),
    "resnet50-fpn": ("faster-rcnn", "mask-rcnn"),
    "resnet101-fpn": ("faster-rcnn", "mask-rcnn"),
}
CLASSIFIER = {"body": "features.", "head": "classifier."}
RELEASED = "https://github.com/rbgirshick/py-faster-rcnn (data/scripts/fetch_imagenet_models.sh)"

_ENTRIES = [
    _plain(
        "alexnet",
        alexnet.alexnet_trunk,
        (torchvision_entry("alexnet-owt-7be5be79.pth", **CLASSIFIER),),
        ("rcnn", "sppnet", "fast-rcnn"),
        1,
    ),
    _plain(
        "caffenet",
        alexnet.caffenet_trunk,
        (
            caffe_entry(
                "bvlc_reference_caffenet.pth",
                licence="unrestricted use (the Berkeley reference models)",
                source="https://github.com/BVLC/caffe/tree/master/models/bvlc_reference_caffenet",
            ),
        ),
        ("rcnn", "fast-rcnn"),
        1,
    ),
    _plain(
        "zf",
        zf.zf_trunk,
        (caffe_entry("ZF.v2.pth", licence="MIT (Faster R-CNN's release)", source=RELEASED),),
        ("sppnet", "faster-rcnn"),
        0,
    ),
    _plain(
        "vgg-m",
        zf.vgg_m_trunk,
        (caffe_entry("VGG_CNN_M_1024.v2.pth", licence="as its authors state on their page", source=RELEASED),),
        ("fast-rcnn", "faster-rcnn"),
        1,
    ),
    _plain(
        "vgg16",
        vgg.trunk,
        (
            torchvision_entry("vgg16-397923af.pth", **CLASSIFIER),
            caffe_entry("VGG16.v2.pth", licence="CC BY 4.0 (the VGG group)", source=RELEASED, **CLASSIFIER),
        ),
        ("rcnn", "fast-rcnn", "faster-rcnn"),
        2,
    ),
    Entry(
        "vgg16-skip",
        SKIP,
        lambda norm: vgg.skip_trunk(),
        SKIPS,
        (
            torchvision_entry("vgg16-397923af.pth", **CLASSIFIER),
            replace(
                caffe_entry("VGG16.v2.pth", licence="CC BY 4.0 (the VGG group)", source=RELEASED, **CLASSIFIER),
                normalisation=FCN_STATISTICS,
            ),
        ),
        ("fcn-32s", "fcn-16s", "fcn-8s"),
        frozen_stages=0,
        normed=False,
    ),
    _plain(
        "squeezenet",
        squeezenet.trunk,
        (torchvision_entry("squeezenet1_0-b66bff10.pth", **CLASSIFIER),),
        (),
        1,
    ),
    *(
        _resnet(depth, form, *files, systems=RESNET_SYSTEMS.get(f"resnet{depth}-{form}", ()))
        for depth, files in RESNET_FILES.items()
        for form in ("c4", "c5", "fpn", SKIP)
    ),
    _resnet(50, "fpn", *reversed(RESNET_FILES[50]), systems=("faster-rcnn", "mask-rcnn"), suffix="-v2"),
    *(
        _mobilenet(version, form, *files)
        for version, files in {
            "v2": ("mobilenet_v2-b0353104.pth", "mobilenet_v2-7ebf99e0.pth"),
            "v3": ("mobilenet_v3_large-8738ca79.pth", "mobilenet_v3_large-5c1a4163.pth"),
        }.items()
        for form in ("plain", "fpn", SKIP)
    ),
]
ENTRIES: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def names(pattern: str = "*") -> list[str]:
    """The full names that a shell pattern such as `resnet*-fpn` matches, in the table's order."""
    return [name for name in ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def entry(name: str, *, form: str | None = None) -> Entry:
    """The entry of a full name, or of a bare one such as `resnet50` in the `form` that the system prefers.

    Raises:
        UserError: no such backbone, or a bare name without form.
    """
    full = f"{name}-{form}"
    for known in (full, name) if form == SKIP else (name, full):
        if known in ENTRIES:
            return ENTRIES[known]
    forms = names(f"{name}-*")
    if forms:
        raise UserError(f"backbone '{name}' comes in several forms: name one of {', '.join(forms)}")
    raise UserError(f"no backbone is called '{name}'{nearest(name, ENTRIES, listed=len(ENTRIES))}")


def create(
    name: str,
    *,
    weights: Path | str | None = None,
    norm: str = "auto",
    frozen_stages: int | None = None,
    form: str | None = None,
    convention: str | None = None,
    levels: Sequence[int] | str | None = None,
    channels: int = 256,
    eps: float | None = None,
) -> Backbone:
    """Builds a backbone.

    Args:
        name: full, or bare with `form`.
        weights: None or "none" for a random start, "imagenet" for the published file if it lies on this disk, or a
            file's path.
        norm: `frozen` batch norm, `batch`, `group` or `none`; `auto` is as published (frozen) with weights, and
            group norm for a random start, which would not train otherwise.
        frozen_stages: how many stages stay as they are; None is the published number with weights, 0 without.
        form: `c4`, `c5` or `fpn`, for a bare name.
        convention: which weights entry the file follows (`caffe` for a converted VGG16); None is the first.
        levels: strides of an FPN's maps, e.g. (4, 8, 16, 32, 64), each double the last; "torchvision" for the maps
            that its detectors use; None is the entry's.
        channels: width of an FPN.
        eps: of batch norm; None is as the published classifier was trained.

    Raises:
        UserError: an unknown name or option, or a weights file that does not fit.
    """
    found = entry(name, form=form)
    path, weights_entry = _weights(found, weights, convention)
    resolved = _norm(found, norm, path is not None)
    backbone = _assemble(found, resolved, levels=levels, channels=channels, eps=eps)
    _initialise(backbone)
    if path is not None and weights_entry is not None:
        backbone.loaded = load(backbone, found.name, path, weights_entry, _published_shapes)
        backbone.normalise.set(weights_entry.normalisation)
    most = len(backbone.stages)
    frozen = (found.frozen_stages if path is not None else 0) if frozen_stages is None else frozen_stages
    if not 0 <= frozen <= most:
        raise UserError(f"frozen_stages = {frozen} is not possible: '{found.name}' has {most} stages")
    backbone.freeze(frozen)
    backbone.settings["frozen_stages"] = frozen
    return backbone.to(memory_format=torch.channels_last)


def _weights(
    found: Entry, weights: Path | str | None, convention: str | None
) -> tuple[Path | None, WeightsEntry | None]:
    """The file to load and the entry it follows; (None, None) for a random start."""
    if weights is None or weights == "none":
        return None, None
    conventions = {weights_entry.name: weights_entry for weights_entry in found.weights}
    if convention is not None and convention not in conventions:
        raise UserError(
            f"'{found.name}' has no weights by the convention '{convention}'{nearest(convention, conventions)}"
        )
    chosen = conventions[convention] if convention else found.weights[0]
    return (find(chosen, found.name) if weights == "imagenet" else Path(weights)), chosen


def _norm(found: Entry, norm: str, pretrained: bool) -> str:
    """The normalisation meant by an option; networks published without any have none to freeze."""
    if norm not in ("auto", *NORMS):
        raise UserError(f"norm = '{norm}' is not known{nearest(norm, ('auto', *NORMS))}")
    if norm == "none" and found.normed:
        raise UserError(f"'{found.name}' does not work without normalisation: norm = 'frozen', 'batch' or 'group'")
    if norm == "auto":
        norm = "frozen" if pretrained else "group"
    return "none" if norm == "frozen" and not found.normed else norm


def _assemble(
    found: Entry,
    norm: str,
    *,
    levels: Sequence[int] | str | None = None,
    channels: int = 256,
    eps: float | None = None,
) -> Backbone:
    """The modules of a backbone with this normalisation, not yet initialised beyond their own defaults."""
    eps = found.eps if eps is None else eps
    region = ValidRegion()
    layer = norm_layer(norm, region, eps)
    trunk = found.build(layer)
    if not found.normed and norm != "none":
        add_norms(trunk.body, layer)
    masks = norm in ("batch", "group")
    if masks:
        mask_poolings(trunk.body, region)
    settings = {"name": found.name, "norm": norm, "eps": eps}
    taps, fpn = trunk.taps[-1:], None
    if found.form == "fpn":
        taps, extra = _levels(found, trunk, levels)
        settings |= {
            "levels": levels if isinstance(levels, str) else list(levels or found.strides),
            "channels": channels,
        }
        fpn = FPN(
            [tap.channels for tap in taps],
            [tap.stride for tap in taps],
            channels,
            extra=extra,
            norm=layer if found.pyramid_norm else None,
            region=region if masks else None,
        )
    elif found.form == SKIP and levels is None:
        taps = trunk.taps[-len(SKIPS) :]
    elif levels is not None:
        raise UserError(
            f"levels = {levels} needs a pyramid: '{found.name}' has maps of stride {_said(found.strides)} alone"
        )
    backbone = Backbone(found.name, trunk, taps, fpn=fpn, region=region if masks else None, settings=settings)
    after = assign_strides(backbone.body)
    if fpn is not None:
        for stride, inner, outer in zip(fpn.strides, fpn.inner_blocks, fpn.layer_blocks, strict=True):
            assign_strides(inner, stride)
            assign_strides(outer, stride)
    if backbone.head is not None:
        assign_strides(backbone.head, after)
    fold_norms(backbone)
    return backbone


def _said(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))


def _levels(found: Entry, trunk: Trunk, levels: Sequence[int] | str | None) -> tuple[tuple[Tap, ...], int]:
    """The body's maps that feed the pyramid, and how many coarser levels it adds."""
    if levels == "torchvision":
        return found.torchvision_taps or trunk.taps, 1
    possible = tuple(tap.stride for tap in trunk.taps)
    strides = found.strides if levels is None else () if isinstance(levels, str) else tuple(levels)
    doubling = all(isinstance(s, int) and s == strides[0] * 2**i for i, s in enumerate(strides))
    if not strides or not doubling or strides[0] not in possible:
        raise UserError(
            f"levels = {levels} is not possible for '{found.name}': strides from {possible[0]} up, each double the "
            f"last, such as {', '.join(map(str, found.strides))}, or 'torchvision'"
        )
    return tuple(tap for tap in trunk.taps if tap.stride in strides), sum(s > possible[-1] for s in strides)


def _initialise(backbone: Backbone) -> None:
    """A random start: He et al. 2015 for convolutions (fan out, gain of ReLU), N(0, 0.01) for the classifier's fc."""
    for part in (backbone.body, backbone.head or nn.Identity()):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _published_shapes() -> Iterator[tuple[str, dict[str, torch.Size]]]:
    """For each backbone, one form each, the keys and shapes of its published file."""
    for found in ENTRIES.values():
        if found.name.endswith(("-c5", "-c4", "-v2", f"-{SKIP}")):
            continue
        with torch.device("meta"):
            state = _assemble(found, "frozen" if found.normed else "none").state_dict()
        shapes = {found.weights[0].published(k): v.shape for k, v in state.items() if k.startswith(("body.", "head."))}
        yield found.name, shapes


def recognise(state: Mapping[str, Tensor]) -> str:
    """The backbone whose published classifier these tensors by key are; "" for none."""
    best, share = likest(state, _published_shapes())
    return best if share == 1 else ""


__all__ = ["ENTRIES", "Entry", "Loaded", "create", "entry", "names", "recognise"]
