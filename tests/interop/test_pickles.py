"""Pickles are read for their arrays, and nothing in them is run."""

import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rcnn.errors import UserError
from rcnn.interop import pickles

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in ("<f2", "<f4", ">f4", "f8", "i1", "<i8", "u1", "?")]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


def written(path, content, protocol):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@SHARED
@given(content=st.dictionaries(st.text(min_size=1), ARRAYS, min_size=1), protocol=st.integers(0, 5))
def test_arrays_come_back_as_they_were(content, protocol, tmp_path):
    for wrapped in (content, {"model": OrderedDict(content), "__author__": "someone"}):
        found = pickles.arrays(written(tmp_path / "x.pkl", wrapped, protocol))
        assert found.keys() == content.keys()
        for key, array in content.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].shape == array.shape
            assert found[key].dtype == array.dtype


@SHARED
@given(content=PLAIN, protocol=st.integers(0, 5))
def test_plain_things_come_back_as_pickle_would_bring_them(content, protocol, tmp_path):
    assert pickles.load(written(tmp_path / "x.pkl", content, protocol)) == content


def test_what_hangs_on_a_state_dict_is_dropped(tmp_path):
    content = OrderedDict(a=np.ones(2, np.float32))
    content._metadata = {"": {"version": 1}}
    assert pickles.arrays(written(tmp_path / "x.pkl", content, 4)).keys() == {"a"}


def test_arrays_of_python_2_are_read(tmp_path):
    """As cPickle of Python 2 wrote a float32 [2, 2] by protocol 2: its bytes are a text."""
    numbers = np.array([[1.5, -2], [3, 200]], np.float32)

    def text(value):
        return b"U" + bytes([len(value)]) + value

    kind = (
        b"cnumpy\ndtype\n"
        + text(b"f4")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    state = b"(K\x01K\x02K\x02\x86" + kind + b"\x89" + text(numbers.tobytes()) + b"tb"
    path = tmp_path / "old.pkl"
    path.write_bytes(b"\x80\x02}" + text(b"conv1_w") + array + state + b"s.")
    np.testing.assert_array_equal(pickles.arrays(path)["conv1_w"], numbers)


class Runs:
    """What pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MARKER = "RCNN_PICKLE_RAN"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "bomb",
    [
        Runs(os.putenv, MARKER, "1"),
        Runs(eval, "1 + 1"),
        Runs(getattr, Runs, "mro"),
        Runs(np.zeros, (1,)),
        Runs(np.load, "/dev/null"),
        print,
        {1, 2},
        io.BytesIO,
        OrderedDict([(("nested",), 1)]),
    ],
)
def test_whatever_would_run_is_refused_in_one_sentence(bomb, protocol, tmp_path):
    content = {"model": {"weight": np.zeros(2, np.float32), "more": bomb}}
    with pytest.raises(UserError, match=r"expected numbers, texts, arrays") as refusal:
        pickles.arrays(written(tmp_path / "x.pkl", content, protocol))
    assert "\n" not in str(refusal.value)
    assert MARKER not in os.environ


def test_the_name_of_what_would_run_is_told(tmp_path):
    path = written(tmp_path / "x.pkl", {"a": Runs(os.putenv, "a", "b")}, 4)
    with pytest.raises(UserError, match=r"would import 'posix\.putenv' where it is unpickled"):
        pickles.arrays(path)


HEADER = b"\x80\x04"
ONE = b"]K\x01a."  # a list of one


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80\x04",
        b".",
        b"hello",
        b"PK\x03\x04 a zip",
        HEADER + b"\x8e" + struct.pack("<Q", 2**63) + b"x" + b".",  # BINBYTES8
        HEADER + b"\x8e" + struct.pack("<Q", 2**40) + b"x" + b".",
        HEADER + b"\x96" + struct.pack("<Q", 2**40) + b"x" + b".",  # BYTEARRAY8
        HEADER + b"\x8d" + struct.pack("<Q", 2**62) + b"x" + b".",  # BINUNICODE8
        HEADER + b"\x95" + struct.pack("<Q", 2**60) + ONE,  # FRAME, then a list that holds no arrays
        HEADER + b"\x8b" + struct.pack("<i", -5) + b".",  # LONG4
        HEADER + b"j" + struct.pack("<I", 2**31) + b".",  # a memo that was never kept
        HEADER + b"N" + b"r" + struct.pack("<I", 2**32 - 1) + b".",  # LONG_BINPUT: C's unpickler takes 64 GB
        HEADER + b"(" * 1000 + b".",
        HEADER + b"t.",
        HEADER + b"a.",
        HEADER + b"NNs.",
        HEADER + b"}(NNu.",
        HEADER + b"KaR.",
        HEADER + b"cnumpy\ndtype\n)R.",
        HEADER + b"cnumpy\ndtype\n\x8c\x02f4\x85R)b.",
        HEADER + b"c_codecs\nencode\n\x8c\x01xK\x01\x86R.",
        b"S'no end\n.",
        b"I99999999999999999999x\n.",
    ],
)
def test_damaged_and_hostile_pickles_cost_nothing_and_one_sentence(program, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(program)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as refusal:
            pickles.arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)


def test_deep_nesting_is_read_without_descending(tmp_path):
    path, depth = tmp_path / "x.pkl", 30_000
    path.write_bytes(HEADER + b"]" * depth + b"a" * (depth - 1) + b".")
    with pytest.raises(UserError, match="holds no arrays by name"):
        pickles.arrays(path)
    path.write_bytes(HEADER + b"}" + b")" + b"\x85" * depth + b"Ns.")  # a key of tuples in tuples, never hashed
    with pytest.raises(UserError, match="a key that is neither text nor number"):
        pickles.arrays(path)


@pytest.mark.parametrize("shape", [(2**31, 2**31), (2**63, 2**63), (3,), (2, -1), (2, True)])
def test_a_shape_that_its_bytes_do_not_fill_is_refused(shape, tmp_path):
    class Lying:
        def __reduce__(self):
            state = (1, shape, np.dtype("f4"), False, b"\0" * 8)
            return np.zeros(1, np.float32).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    with pytest.raises(UserError, match=r"do not fill|damaged"):
        pickles.arrays(written(tmp_path / "x.pkl", {"a": Lying()}, 4))


@pytest.mark.parametrize(
    "array", [np.array([{}], object), np.array(["text"]), np.zeros(2, [("a", "f4")]), np.zeros(2, "c8")]
)
def test_other_arrays_than_numbers_are_refused(array, tmp_path):
    with pytest.raises(UserError, match="has an array of"):
        pickles.arrays(written(tmp_path / "x.pkl", {"a": array}, 4))


@SHARED
@given(data=st.binary(max_size=200))
@example(data=b"\x80\x04\x95")
def test_any_bytes_are_read_or_refused(data, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    try:
        pickles.arrays(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@SHARED
@given(data=st.data(), protocol=st.integers(0, 5))
def test_a_mangled_file_is_read_or_refused(data, protocol, tmp_path):
    content = {"model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [1, "x", None]}}
    program = bytearray(pickle.dumps(content, protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pkl"
    path.write_bytes(program[: data.draw(st.integers(1, len(program)))])
    try:
        pickles.arrays(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_every_instruction_of_plain_pickles_is_known():
    """Whatever Python may write of plain things is carried out; the rest makes objects and is refused by name."""
    known = {*pickles._CONSTANTS, *pickles._STEPS, "STOP", "PROTO", "FRAME"}
    others = {instruction.name for instruction in pickletools.opcodes} - known
    assert others == {
        *("PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "DUP"),
        *("EMPTY_SET", "ADDITEMS", "FROZENSET", "NEXT_BUFFER", "READONLY_BUFFER"),
    }
