"""What kernels that jump about in maps need and numba does not offer, as LLVM's instructions: sums over taps that stay
in the processor's vector registers whatever their length, and asking for memory before it is read.

LLVM makes a loop of unknown length a vectorised one of 32 or 64 elements a turn and leaves the rest to one element
after the other; of 21 classes that is all. Here the last vector begins where it still fits and sums some again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from rcnn.kernels.cpu.threads import kernel

LINE = 64  # bytes that come from memory at once, on all processors in use but Apple's, where it is more
LONG, SHORT = 16, 4  # elements of a vector; LLVM makes of the long one as many registers as the processor needs


@kernel()
def weighted_sum(
    values: np.ndarray,  # flat
    starts: np.ndarray,  # [≥ T] int64, where in `values` each tap's elements begin
    weights: np.ndarray,  # [≥ T], of the taps, in the type of the values
    taps: int,  # T
    length: int,
    sums: np.ndarray,  # flat
    first: int,
) -> None:
    """sums[first : first + length] = Σ weights[t] · values[starts[t] : starts[t] + length]; all arrays without gaps."""
    if length >= LONG:
        for at in range(0, length - LONG + 1, LONG):
            _sum_long(values, starts, weights, taps, at, sums, first + at)
        if length % LONG:
            _sum_long(values, starts, weights, taps, length - LONG, sums, first + length - LONG)
    elif length >= SHORT:
        for at in range(0, length - SHORT + 1, SHORT):
            _sum_short(values, starts, weights, taps, at, sums, first + at)
        if length % SHORT:
            _sum_short(values, starts, weights, taps, length - SHORT, sums, first + length - SHORT)
    else:
        for at in range(length):
            _sum_one(values, starts, weights, taps, at, sums, first + at)


@kernel()
def prefetch(values: np.ndarray, first: int, count: int) -> None:
    """Fetches `count` elements from the `first` of a contiguous array towards the caches; reads nothing."""
    step = LINE // values.itemsize
    for offset in range(first, first + count + step - 1, step):
        _prefetch(values, offset)  # type: ignore[missing-argument]


def _sum_of(lanes: int) -> Callable[..., None]:
    """sums[to : to + lanes] = Σ weights[t] · values[starts[t] + at : … + lanes], added up in registers."""

    @intrinsic
    def sum_lanes(context: Any, values: Any, starts: Any, weights: Any, taps: Any, at: Any, sums: Any, to: Any) -> Any:
        if any(array.layout != "C" for array in (values, starts, weights, sums)):
            raise TypingError("expected arrays without gaps")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 2, 5)]
            values, starts, weights, sums = data
            taps, at, to = arguments[3], arguments[4], arguments[6]
            element = values.type.pointee
            vector = ir.VectorType(element, lanes)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)  # lane 0 of the weight
            total = cgutils.alloca_once_value(builder, ir.Constant(vector, None))
            with cgutils.for_range(builder, taps) as loop:
                start = builder.add(builder.load(builder.gep(starts, [loop.index])), at)
                part = builder.load(builder.bitcast(builder.gep(values, [start]), vector.as_pointer()))
                part.align = element.get_abi_size(context.target_data)
                weight = builder.load(builder.gep(weights, [loop.index]))
                undefined = ir.Constant(vector, ir.Undefined)
                weight = builder.insert_element(undefined, weight, ir.IntType(32)(0))
                weight = builder.shuffle_vector(weight, undefined, everywhere)
                # Fused where the processor can.
                product = builder.fmul(weight, part, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
            place = builder.bitcast(builder.gep(sums, [to]), vector.as_pointer())
            builder.store(builder.load(total), place).align = element.get_abi_size(context.target_data)
            return context.get_dummy_value()

        return types.void(values, starts, weights, taps, at, sums, to), generate

    return sum_lanes


_sum_long, _sum_short, _sum_one = _sum_of(LONG), _sum_of(SHORT), _sum_of(1)


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
