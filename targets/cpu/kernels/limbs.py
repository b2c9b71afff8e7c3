"""Matrix-vector tiles in integers: weights of four bits times activations of two seven-bit limbs.

A group of 32 activations is rounded to integers a = 128 l0 + l1 of 14 bits, |l| <= 64, times a
step: an error of at most 6.2e-5 of the group's largest value. A weight's four bits are looked up as
an unsigned byte u = w + zero. Byte products summed over a group fit 16 bits (24 * 64 * 2 * 8), and

    sum w a = 128 sum u l0 + sum u l1 - zero sum a

is exact. Half of the instructions of the float32 tile, and the same packed weights: ``tile16``
has the two k of a 16-bit word side by side (layouts.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import E2M1, INT4, Weight, byte_table, lookup, zeros
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, across, get, put, spread

GROUP = 32
MOST = 127 * 64
"""The integer of a group's largest value."""
LEAST = 1e-30
QUADS = GROUP // 4
PATTERN = 16


@dataclass(frozen=True)
class Table:
    """What four bits mean: w = (u - zero) * unit, u by code."""

    codes: tuple[int, ...]
    zero: int
    unit: float


TABLES = {
    "fp4e2m1/32:ue8m0": Table(tuple(int(2 * v) + 12 for v in E2M1), 12, 0.5),
    "int4/32:bf16": Table(tuple(int(v) + 8 for v in INT4), 8, 1.0),
}


class Limbs:
    """Rows of activations as integers.

    `patterns` int8 [rows, groups, 8, 2, 16]: for four k of a limb what a 128-bit part of a block is
    multiplied with, ``l[0] l[1]`` four times and ``l[2] l[3]`` four times; `sums` int32 and `steps`
    float32 [rows, groups].
    """

    CODECS = frozenset(TABLES)

    def __init__(self, rows: int, k: int) -> None:
        self.rows, self.groups = rows, -(-k // GROUP)
        self.patterns = T.alloc_buffer((rows * self.groups * QUADS * 2 * PATTERN,), "int8")
        self.sums = T.alloc_buffer((rows, self.groups), "int32")
        self.steps = T.alloc_buffer((rows, self.groups), "float32")

    def fill(self, x: Any) -> None:
        """Round x [rows, .. >= 32 groups], row by row, several side by side."""
        if self.rows == 1:
            self._row(x, 0)
            return
        with T.parallel(self.rows) as row:
            self._row(x, row)

    def _row(self, x: Any, row: Expr) -> None:
        with T.serial(self.groups) as group:
            values = [T.bind(get(x, row, group * GROUP + i, lanes=8)) for i in range(0, GROUP, 8)]
            sizes = [T.max(v, spread(0.0, 8) - v) for v in values]
            top = T.bind(T.max(across(reduce(T.max, sizes), 8, T.max), T.float32(LEAST)))
            put(self.steps, top * T.float32(1 / MOST), row, group)
            factor = T.bind(spread(T.float32(MOST) / top, 8))
            whole = [T.bind(T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx.cvt.ps2dq.256",
                                                    v * factor)) for v in values]
            total = T.bind(reduce(lambda a, b: a + b, whole))
            put(self.sums, reduce(lambda a, b: a + b,
                                  [T.Shuffle([total], [i]) for i in range(8)]), row, group)
            at = (row * self.groups + group) * (QUADS * 2 * PATTERN)
            for i, value in enumerate(whole):
                low = T.bind(T.bitwise_and(value + _i32(64), _i32(127)) - _i32(64))
                high = T.shift_right(value - low, _i32(7))
                for limb, part in enumerate((high, low)):
                    narrow = T.bind(T.Cast("int8x8", part))
                    for quad in (0, 1):
                        a = 4 * quad
                        order = [a, a + 1] * 4 + [a + 2, a + 3] * 4
                        put(self.patterns, T.Shuffle([narrow, narrow], order),
                            at + ((2 * i + quad) * 2 + limb) * PATTERN, lanes=PATTERN)

    def tile(self, weight: Weight, tile: Expr, lanes: int, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row]; see `limb_tile`."""
        return limb_tile(weight, tile, self, lanes, row)

    def pattern(self, row: Expr, quad: Expr, limb: int, lanes: int) -> Expr:
        """The bytes that a vector of weights is multiplied with."""
        at = ((row * self.groups * QUADS + quad) * 2 + limb) * PATTERN
        part = get(self.patterns, at, lanes=PATTERN)
        copies = lanes // 4
        return T.Shuffle([part] * copies, list(range(PATTERN * copies)))


def limb_tile(weight: Weight, tile: Expr, limbs: Limbs, lanes: int, row: Expr = 0) -> list[Expr]:
    """16 rows of W x[row] as ``16 // lanes`` vectors, like `gemv.gemv_tile`."""
    table = TABLES[weight.codec]
    codes = byte_table(table.codes, lanes)
    halves, turns = TILE // lanes, GROUP // weight.form.step
    sums = [[Cell(_words(0, lanes), 2 * lanes, "int16") for _ in range(2)] for _ in range(halves)]
    grand = zeros(halves, lanes)
    with T.serial(weight.steps) as step:
        read = weight.reader(tile, step)
        patterns = [[T.bind(limbs.pattern(row, step * 2 + h, limb, lanes)) for limb in range(2)]
                    for h in range(2)]
        for half in range(halves):
            v = T.bind(T.reinterpret(f"uint32x{lanes}", read(half * 4 * lanes, 4 * lanes)))
            for h in range(2):
                u = T.bind(lookup(codes, v, 4 * h, lanes))
                for limb in range(2):
                    cell = sums[half][limb]
                    cell.value = cell.value + _pairs(u, patterns[h][limb], lanes)
        with T.If(step % turns == turns - 1), T.Then():
            group = T.bind(T.truncdiv(step, T.int32(turns)))
            shift = T.bind(spread(limbs.sums[row, group] * table.zero, lanes))
            unit = T.bind(spread(limbs.steps[row, group] * T.float32(table.unit), lanes))
            for half in range(halves):
                whole = _joined(*[c.value for c in sums[half]], lanes) - shift
                value = T.Cast(f"float32x{lanes}", whole) * unit
                grand[half].value = (
                    grand[half].value + value * weight.scale(tile, group, half, lanes))
                for cell in sums[half]:
                    cell.value = _words(0, lanes)
    return [g.value for g in grand]


def _joined(high: Expr, low: Expr, lanes: int) -> Expr:
    """128 high + low, the two words of a row added: int32 rows of a vector of 16-bit sums."""
    high, low = T.bind(high), T.bind(low)
    weights = T.reinterpret(f"int16x{2 * lanes}", T.broadcast(T.int32(128 << 16 | 1), lanes))
    parts = []
    for upper in (0, 1):
        order = []
        for part in range(0, 2 * lanes, 8):
            for j in range(4):
                order += [2 * lanes + part + 4 * upper + j, part + 4 * upper + j]
        parts.append(_sums_of_pairs(T.Shuffle([high, low], order), weights, lanes))
    return parts[0] + parts[1]


def _pairs(u: Expr, s: Expr, lanes: int) -> Expr:
    """Unsigned times signed bytes, neighbours added to 16 bits."""
    name = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}[lanes]
    return T.call_llvm_pure_intrin(f"int16x{2 * lanes}", name, u, s)


def _sums_of_pairs(a: Expr, b: Expr, lanes: int) -> Expr:
    """Signed words multiplied, neighbours added to 32 bits."""
    name = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[lanes]
    return T.call_llvm_pure_intrin(f"int32x{lanes}", name, a, b)


def _words(value: int, lanes: int) -> Expr:
    return T.broadcast(T.int16(value), 2 * lanes)


def _i32(value: int) -> Expr:
    return T.broadcast(T.int32(value), 8)
