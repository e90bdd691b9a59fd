"""The wire format of protocol buffers, as far as a reader of weights needs it.

A message is a row of fields, each a number, a wire type and a value (protobuf.dev/programming-guides/encoding); what a
number means is the reader's knowledge.
What is nested is a value of bytes until the reader asks for its fields, so a file cannot make this module descend, and
a length is compared with what is there before anything is taken.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


class Damaged(ValueError):
    """The bytes are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """The fields of a message in order: number, wire type, and an int for varints, else the value's bytes (no copy).

    Raises:
        Damaged: a field ends behind the message, or is of no known type.
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Damaged("a field has the number 0")
        if kind == VARINT:
            value, at = varint(message, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if kind == EIGHT_BYTES else 4
        else:
            raise Damaged(f"a field has the wire type {kind}")
        if length > len(message) - at:
            raise Damaged(f"a field of {length} bytes has {len(message) - at}")
        yield number, kind, message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number of 7 bits a byte that begins at `at`, below 2^64, and where it ends.

    Raises:
        Damaged: it ends behind the message, or never.
    """
    value = 0
    for place in range(10):
        if at + place >= len(message):
            raise Damaged("a number ends behind the message")
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            if value >= 1 << 64:
                break
            return value, at + place + 1
    raise Damaged("a number has more than 64 bits")


def varints(packed: memoryview) -> list[int]:
    """Numbers one after the other, as repeated fields are packed.

    Raises:
        Damaged: as of `varint`.
    """
    values, at = [], 0
    while at < len(packed):
        value, at = varint(packed, at)
        values.append(value)
    return values
