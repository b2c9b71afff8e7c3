"""One token with the byte products of AVX-512 VNNI: four for each lane and instruction.

With activations a = 256 high + low in bytes and weights as unsigned bytes u = w + zero,

    sum w a = 256 sum u high + sum u low - zero sum a

are the integers of words.py, in fewer instructions. A vector is a row tile: lane r belongs to row
r of 16 (layouts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Weight, zeros
from firstlight.targets.cpu.kernels.panel import DEPTH
from firstlight.targets.cpu.kernels.rounded import CODES, GROUP, Codes, Rounded
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, add, get, put

LANES = 16


class Bytes(Rounded):
    """Upper and lower bytes of the integers, and sums of 32 of them."""

    def __init__(self, rows: int, k: int, lanes: int) -> None:
        super().__init__(rows, k, lanes)
        self.planes = T.alloc_buffer((rows, 2, self.groups * GROUP), "int8")
        self.sums = T.alloc_buffer((rows, self.groups), "int32")

    def _keep(self, bits: Sequence[Expr], row: Expr, at: Expr, group: Expr) -> None:
        half, eight = T.broadcast(T.int32(128), LANES), T.broadcast(T.int32(8), LANES)
        for i, word in enumerate(bits):
            upper = T.shift_right(word + half, eight)
            for plane, value in enumerate((upper, word)):
                put(self.planes, T.Cast("int8x16", value), row, plane, at + i * LANES, lanes=LANES)
        offset = T.broadcast(T.int32(0x4B400000), LANES)
        whole = T.bind(reduce(add, [word - offset for word in bits]))
        put(self.sums, reduce(add, [T.Shuffle([whole], [i]) for i in range(LANES)]), row, group)

    def tile(self, weight: Weight, tile: Expr, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row] as one vector; see `gemv.gemv_tile`."""
        codes, step = CODES[weight.codec], weight.form.step
        turns = GROUP // step
        grand, total = zeros(2, LANES)
        sums = [Cell(_none(), LANES, "int32") for _ in range(2)]
        with T.serial(self.blocks) as block:
            first = T.bind(block * (DEPTH // step))
            with T.serial(T.min(DEPTH // step, weight.steps - first)) as s:
                v = T.bind(T.reinterpret("int8x64", weight.reader(tile, first + s)(0, 64)))
                for quad, u in enumerate(_unsigned(codes, v)):
                    for plane, cell in enumerate(sums):
                        a = get(self.planes, row, plane, (first + s) * step + 4 * quad, lanes=4)
                        a = T.broadcast(T.reinterpret("int32", a), LANES)
                        cell.value = T.call_llvm_pure_intrin(
                            "int32x16", "llvm.x86.avx512.vpdpbusd.512", cell.value, u,
                            T.reinterpret("int8x64", a))
                # the branch is a wall for LLVM's scheduler, which otherwise spills
                with T.If(s % turns == turns - 1), T.Then():
                    group = T.bind(T.truncdiv(first + s, T.int32(turns)))
                    shift = T.broadcast(self.sums[row, group] * codes.zero, LANES)
                    high, low = (cell.value for cell in sums)
                    whole = T.shift_left(high, T.broadcast(T.int32(8), LANES)) + low - shift
                    total.value = (total.value + T.Cast("float32x16", whole)
                                   * weight.scale(tile, group, 0, LANES))
                    for cell in sums:
                        cell.value = _none()
            self.close(grand, total, row, block, codes.unit)
        return [grand.value]


def _unsigned(codes: Codes, v: Expr) -> list[Expr]:
    """A block as vectors of bytes u, lane r the next four k of row r."""
    if codes.table is None:
        order = [32 * (j // 2) + 2 * r + j % 2 for r in range(TILE) for j in range(4)]
        return [T.bind(T.bitwise_xor(T.Shuffle([v], order), T.broadcast(T.int8(-128), 64)))]
    order = [16 * (r // 4) + 8 * (j // 2) + 2 * (r % 4) + j % 2
             for r in range(TILE) for j in range(4)]
    # The instruction looks at six bits of an index: with the sixteen bytes four times it does not
    # matter what is beside the nibble.
    table = bytes(w + codes.zero for w in codes.table)
    words = [int.from_bytes(table[i : i + 8], "little", signed=True) for i in (0, 8)]
    looked = T.reinterpret("int8x64", T.Shuffle([T.int64(w) for w in words] * 4, list(range(8))))
    low = T.bind(T.Shuffle([v], order))
    high = T.reinterpret("int8x64", T.shift_right(
        T.reinterpret("uint32x16", low), T.broadcast(T.uint32(4), LANES)))
    return [T.bind(T.call_llvm_pure_intrin(
        "int8x64", "llvm.x86.avx512.permvar.qi.512", looked, nibble)) for nibble in (low, high)]


def _none() -> Expr:
    return T.broadcast(T.int32(0), LANES)
