"""Caffe's files written by hand, as protocol buffers lay them out."""

import struct


def varint(number):
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, value):
    """An int as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(tensor, *, old=False, double=False, packed=True):
    """A BlobProto of a tensor; `old` has four dimensions in the place of a shape."""
    shape = list(tensor.shape)
    if old:
        sides = [1] * (4 - len(shape)) + shape
        head = b"".join(field(number, side) for number, side in enumerate(sides, 1))
    else:
        head = field(7, field(1, b"".join(map(varint, shape))))
    numbers = tensor.contiguous().numpy().astype("<f8" if double else "<f4")
    if packed:
        return head + field(8 if double else 5, numbers.tobytes())
    return head + b"".join(varint(5 << 3 | 5) + struct.pack("<f", number) for number in numbers.flatten().tolist())


def net(layers, *, old=False, **how):
    """A NetParameter of {name: tensors}; `old` is the form before 2014's end, a layer without weights between."""
    parts = [field(1, b"a net")]
    for name, tensors in layers.items():
        blobs = [blob(tensor, old=old, **how) for tensor in tensors]
        if old:
            body = field(2, b"data") + field(3, b"top") + b"".join(field(6, each) for each in blobs)
            parts.append(field(2, body + field(4, name.encode()) + field(5, 4)))
            parts.append(field(2, field(4, f"relu {name}".encode()) + field(5, 18)))
        else:
            body = field(1, name.encode()) + field(2, b"Convolution") + field(3, b"data") + field(10, 1)
            parts.append(field(100, body + b"".join(field(7, each) for each in blobs)))
            parts.append(field(100, field(1, f"relu {name}".encode()) + field(2, b"ReLU")))
    return b"".join(parts)
