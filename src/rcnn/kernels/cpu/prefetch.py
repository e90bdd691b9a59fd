"""Asking for memory before it is read, for kernels that jump about in maps larger than the caches.

A processor overlaps only so many reads that miss; a kernel that knows where it will read next says so ahead of time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from rcnn.kernels.cpu.threads import kernel

LINE = 64  # bytes that come from memory at once, on all processors in use but Apple's, where it is more


@kernel()
def prefetch(values: np.ndarray, first: int, count: int) -> None:
    """Fetches `count` elements from the `first` of a contiguous array towards the caches; reads nothing."""
    step = LINE // values.itemsize
    for offset in range(first, first + count + step - 1, step):
        _prefetch(values, offset)  # type: ignore[missing-argument]


@intrinsic
def _prefetch(context: Any, values: Any, offset: Any) -> Any:
    """LLVM's `prefetch` of the address of an array's element, to be read, into all levels of cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        name = "llvm.prefetch.p0" if str(address.type) == "ptr" else "llvm.prefetch.p0i8"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        reading, keep, data = number(0), number(3), number(1)
        builder.call(function, [address, reading, keep, data])
        return context.get_dummy_value()

    return types.void(values, offset), generate
