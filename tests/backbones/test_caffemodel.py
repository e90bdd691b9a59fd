"""Caffe's files by the wire format of protocol buffers; what is damaged costs nothing and one sentence."""

import importlib.util
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rcnn.backbones import caffemodel, protobuf
from rcnn.errors import UserError

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)


def _wire():
    path = Path(__file__).parents[1] / "interop" / "wire.py"
    spec = importlib.util.spec_from_file_location("wire", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WIRE = _wire()


def written(path, data):
    path.write_bytes(data)
    return path


def slow_varint(data):
    """A number's value and length by the book: the low 7 bits of each byte, the first byte lowest."""
    bits = ""
    for length, byte in enumerate(data, 1):
        bits = f"{byte & 127:07b}" + bits
        if byte < 128:
            return int(bits, 2), length
    return None


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_numbers_are_read_as_they_are_written(number, behind):
    data = WIRE.varint(number)
    assert slow_varint(data) == (number, len(data))
    assert protobuf.varint(memoryview(data + behind), 0) == (number, len(data))


VALUES = st.integers(0, 2**64 - 1) | st.binary(max_size=20)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), VALUES), max_size=8))
def test_fields_are_read_as_they_are_written(rows):
    message = memoryview(b"".join(WIRE.field(number, value) for number, value in rows))
    found = [
        (number, value if isinstance(value, int) else bytes(value)) for number, _, value in protobuf.fields(message)
    ]
    assert found == rows


SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=4)


@SHARED
@given(shape=SHAPES, old=st.booleans(), double=st.booleans(), packed=st.booleans())
@example(shape=[3], old=True, double=False, packed=False)
def test_blobs_come_back_in_every_form(shape, old, double, packed, tmp_path):
    tensor = torch.randn(shape)
    data = WIRE.net({"conv1": [tensor, tensor[:1]]}, old=old, double=double, packed=packed or double)
    found = caffemodel.read(written(tmp_path / "x.caffemodel", data))
    assert list(found) == ["conv1"]
    back = found["conv1"][0].tensor()
    # Old files have four sides always, the leading ones of 1 where there are fewer.
    assert back.numel() == tensor.numel()
    assert torch.equal(back.flatten(), tensor.flatten())
    if not old:
        assert back.shape == tensor.shape
    elif shape[0] > 1:
        assert list(back.shape) == shape


def test_layers_give_weight_and_bias(tmp_path):
    weight, bias = torch.randn(2, 3, 1, 1), torch.randn(2)
    layers = {"conv1": [weight, bias], "bn": [bias, bias, bias[:1]]}
    found = caffemodel.tensors(written(tmp_path / "x.caffemodel", WIRE.net(layers)))
    assert found.keys() == {"conv1.weight", "conv1.bias"}
    assert torch.equal(found["conv1.weight"], weight)


def layer_of(blob, name=b"conv1"):
    return WIRE.field(100, WIRE.field(1, name) + WIRE.field(7, blob))


def shape_of(*sides):
    return WIRE.field(7, WIRE.field(1, b"".join(map(WIRE.varint, sides))))


NUMBERS = WIRE.field(5, struct.pack("<4f", 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x08", "damaged or no caffemodel"),
        (b"hello, I am no net", "damaged or no caffemodel|no layer with weights"),
        (WIRE.varint(100 << 3 | 2) + WIRE.varint(2**63) + b"x", "damaged"),
        (WIRE.varint(100 << 3 | 2) + b"\xff" * 10 + b"\x01", "damaged"),
        (b"\x80" * 20, "damaged"),
        (b"\x02\x00", "damaged"),  # a field of number 0
        (b"\x0b" * 100_000, "damaged"),  # groups in groups
        (WIRE.field(100, b"\x0a\x05ab"), "damaged"),
        (layer_of(NUMBERS + shape_of(2, 2), b"\xff\xfe"), "damaged"),
        (WIRE.field(1, b"a name alone"), "no layer with weights"),
        (layer_of(NUMBERS + shape_of(5)), "'conv1' of 5 numbers in 16 bytes"),
        (layer_of(NUMBERS + shape_of(2**62, 4)), "numbers in 16 bytes"),
        (layer_of(NUMBERS + shape_of(2**63, 2)), "numbers in 16 bytes"),
        (layer_of(NUMBERS + shape_of(2**64 - 2, 2**64 - 2)), "numbers in 16 bytes"),  # −2 × −2
        (layer_of(NUMBERS + shape_of(*[1] * 33, 4)), "numbers in 16 bytes"),
        (layer_of(NUMBERS + shape_of(*[1] * 500_000)), "damaged"),
        (layer_of(WIRE.field(5, b"abc") + shape_of(1)), "numbers in 3 bytes"),
        (layer_of(NUMBERS), "0×0×0×0 numbers in 16 bytes"),
        (layer_of(shape_of(2**40)), "numbers in 0 bytes"),
        (layer_of(NUMBERS + shape_of(4)) * 2, "two layers 'conv1'"),
    ],
)
def test_damaged_and_hostile_files_cost_nothing_and_one_sentence(data, message, tmp_path):
    path = written(tmp_path / "x.caffemodel", data)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as refusal:
            caffemodel.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        caffemodel.read(tmp_path / "nowhere.caffemodel")


@SHARED
@given(data=st.data())
def test_a_mangled_file_is_read_or_refused(data, tmp_path):
    net = bytearray(WIRE.net({"conv1": [torch.randn(2, 2, 1, 1), torch.randn(2)]}, old=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(0, 4))):
        net[data.draw(st.integers(0, len(net) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path / "x.caffemodel", net[: data.draw(st.integers(1, len(net)))])
    try:
        caffemodel.tensors(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
