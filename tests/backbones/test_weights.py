"""Weights files: every key is checked, nothing is downloaded, and what does not fit is told in one sentence."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from rcnn import backbones
from rcnn.backbones.weights import folders, read
from rcnn.errors import UserError
from rcnn.files import cache_folder
from rcnn.structures import ImageBatch


@pytest.fixture
def resnet18(tmp_path: Path) -> Path:
    """A file as torchvision publishes it."""
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_unused_keys_are_listed_and_counters_are_not(resnet18: Path):
    backbone = backbones.create("resnet18-fpn", weights=resnet18)
    assert backbone.loaded.unused == ("fc.weight", "fc.bias")
    assert backbone.loaded.taken == 100
    assert backbone.settings["norm"] == "frozen"
    assert backbone.settings["frozen_stages"] == 2


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_usual_wrappings_are_taken_off(wrap: Callable, resnet18: Path, tmp_path: Path):
    torch.save(wrap(torch.load(resnet18, weights_only=True)), tmp_path / "wrapped.pt")
    backbone = backbones.create("resnet18-c4", weights=tmp_path / "wrapped.pt")
    expected = torch.load(resnet18, weights_only=True)
    assert torch.equal(backbone.body.conv1.weight, expected["conv1.weight"])
    assert torch.equal(backbone.head.layer4[0].conv1.weight, expected["layer4.0.conv1.weight"])


def test_safetensors_are_read(resnet18: Path, tmp_path: Path):
    state = torch.load(resnet18, weights_only=True)
    save_file(state, tmp_path / "net.safetensors")
    backbone = backbones.create("resnet18-c5", weights=str(tmp_path / "net.safetensors"))
    assert torch.equal(backbone.body.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_missing_keys_and_other_shapes_are_counted_and_named(resnet18: Path, tmp_path: Path):
    state = torch.load(resnet18, weights_only=True)
    del state["layer2.0.conv1.weight"], state["bn1.running_var"]
    state["layer3.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(UserError) as refusal:
        backbones.create("resnet18-fpn", weights=tmp_path / "torn.pth")
    sentence = str(refusal.value)
    assert "2 of 100 keys are missing (bn1.running_var, layer2.0.conv1.weight)" in sentence
    assert "1 of 100 have another shape (layer3.0.conv1.weight is [1, 2, 3, 3], expected [256, 128, 3, 3])" in sentence


def test_a_file_of_another_network_is_named(resnet18: Path):
    with pytest.raises(UserError, match="it is a file for 'resnet18-fpn'"):
        backbones.create("mobilenetv2", weights=resnet18)
    with pytest.raises(UserError, match="it is a file for 'resnet18-fpn'"):
        backbones.create("resnet34-c4", weights=resnet18)


class _Code:
    def __reduce__(self) -> tuple:
        return print, ("this must never run",)


def test_damaged_and_dangerous_files_are_refused_in_one_sentence(
    resnet18: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    whole = resnet18.read_bytes()
    files = {
        "truncated.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"not weights at all",
        "code.pth": pickle.dumps({"conv1.weight": _Code()}),
        "truncated.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
        "picture.png": b"\x89PNG",
    }
    torch.save({"conv1.weight": _Code()}, tmp_path / "zipped.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "zipped.pth", "list.pth", "absent.pth"]:
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as refusal:
            read(tmp_path / name)
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="would run code"):
        read(tmp_path / "zipped.pth")
    assert "never run" not in capsys.readouterr().out


def test_imagenet_weights_are_looked_for_and_never_downloaded(
    resnet18: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(UserError) as refusal:
        backbones.create("resnet18-fpn", weights="imagenet")
    for part in ("resnet18-f37072fd.pth", str(tmp_path / "cache"), str(tmp_path / "torch"), "https://"):
        assert part in str(refusal.value)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    resnet18.rename(folder / "resnet18-f37072fd.pth")
    assert backbones.create("resnet18-fpn", weights="imagenet").loaded.path.parent == folder


def test_weights_lie_in_the_same_cache_as_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RCNN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders()[0] == tmp_path / "rcnn" / "weights" == cache_folder() / "weights"


def test_classifier_weights_load_under_added_norms(tmp_path: Path):
    state = torchvision.models.squeezenet1_0().state_dict()
    torch.save(state, tmp_path / "squeeze.pth")
    backbone = backbones.create("squeezenet", weights=tmp_path / "squeeze.pth", norm="group")
    assert torch.equal(backbone.body[3].squeeze.weight, state["features.3.squeeze.weight"])


def test_a_convention_sets_the_statistics_of_the_pixels(tmp_path: Path):
    net = backbones.create("caffenet", norm="none")
    state = {k.split(".", 1)[1]: v for k, v in net.state_dict().items() if k.startswith(("body.", "head."))}
    torch.save(state, tmp_path / "caffenet.pth")
    loaded = backbones.create("caffenet", weights=tmp_path / "caffenet.pth")
    assert loaded.normalise.order.tolist() == [2, 1, 0]
    torch.testing.assert_close(loaded.normalise.shift, torch.tensor([-102.9801, -115.9465, -122.7717]))
    assert loaded.loaded.unused == ()
    with pytest.raises(UserError, match="no weights by the convention 'imagenet'"):
        backbones.create("caffenet", weights=tmp_path / "caffenet.pth", convention="imagenet")


def _normalised(images: ImageBatch) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize(
    ("name", "file", "make"),
    [
        ("squeezenet", "squeezenet1_0_deepcompression_tv.pth", torchvision.models.squeezenet1_0),
        ("mobilenetv2", "mobilenet_v2_tfptq_tv.pth", torchvision.models.mobilenet_v2),
        ("mobilenetv2-fpn", "mobilenet_v2_tfptq_tv.pth", torchvision.models.mobilenet_v2),
    ],
)
def test_shared_weights_give_torchvisions_features(
    name: str, file: str, make: Callable, shared_weights: Callable[[str], Path], photograph: Callable[..., ImageBatch]
):
    path = shared_weights(file)
    theirs = make().eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = backbones.create(name, weights=path).eval()
    images = photograph((96, 128))
    layers = len(ours.body)
    with torch.no_grad():
        expected = theirs.features[:layers](_normalised(images))
        x = ours.normalise(images)
        for layer in ours.body:
            x = layer(x)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
