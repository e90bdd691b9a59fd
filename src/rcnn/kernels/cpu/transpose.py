"""Turning pixels × channels into channels × pixels, which otherwise takes longer than pooling them.

A loop that moves single numbers does not vectorise, so 8 × 8 blocks are turned in registers: three rounds, of which the
first swaps the off-diagonal numbers of each 2 × 2 block, the second those of 2 × 2 blocks of blocks, and so on. The
block is given to the compiler as its own vector instructions; everything around it is an ordinary kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rcnn.kernels.cpu.threads import kernel

SIDE = 8


@intrinsic
def _turn_block(typing_context: Any, source: Any, start: Any, step: Any, target: Any, place: Any, stride: Any) -> Any:
    """target[place + j·stride + i] = source[start + i·step + j] for i, j below 8, of contiguous arrays taken flat."""
    signature = types.void(source, types.intp, types.intp, target, types.intp, types.intp)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, start, step, target, place, stride = arguments
        number = context.get_data_type(signature.args[0].dtype)
        vector = ir.VectorType(number, SIDE)

        def pointer(array: Any, which: int, first: Any, distance: Any, row: int) -> Any:
            data = context.make_array(signature.args[which])(context, builder, array).data
            offset = builder.add(first, builder.mul(distance, ir.Constant(ir.IntType(64), row)))
            return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        def pick(a: Any, b: Any, which: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), SIDE), which))

        align = context.get_abi_sizeof(number)  # of one number: rows start anywhere
        rows = [builder.load(pointer(source, 0, start, step, i), align=align) for i in range(SIDE)]
        for apart in (1, 2, 4):
            for i in (i for i in range(SIDE) if not i & apart):
                a, b = rows[i], rows[i + apart]
                rows[i] = pick(a, b, [j - apart + SIDE if j & apart else j for j in range(SIDE)])
                rows[i + apart] = pick(a, b, [j + SIDE if j & apart else j + apart for j in range(SIDE)])
        for j, row in enumerate(rows):
            builder.store(row, pointer(target, 3, place, stride, j), align=align)
        return context.get_dummy_value()

    return signature, generate


@kernel()
def transpose(source: np.ndarray, rows: int, columns: int, target: np.ndarray) -> None:
    """target[j, i] = source[i, j] for i below `rows` and j below `columns`; both contiguous, of one floating type."""
    step, stride = source.shape[1], target.shape[1]
    whole_rows, whole_columns = rows - rows % SIDE, columns - columns % SIDE
    for j in range(0, whole_columns, SIDE):
        for i in range(0, whole_rows, SIDE):
            _turn_block(source, i * step + j, step, target, j * stride + i, stride)  # type: ignore[missing-argument]
        for i in range(whole_rows, rows):
            for k in range(j, j + SIDE):
                target[k, i] = source[i, k]
    for j in range(whole_columns, columns):
        for i in range(rows):
            target[j, i] = source[i, j]
