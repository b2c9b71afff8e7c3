"""Products in integers with AVX-512 VNNI: weights of four or eight bits times activations of 16.

Of 128 activations each is rounded to an integer |a| <= 32512 times a step: an error of at most
1.6e-5 of the largest of them. What follows is exact until a group of 32 has been summed, and the
groups are added in one order, so that a token alone and a chunk of tokens give the same bits.

    one token     a = 256 high + low in bytes, weights as unsigned bytes u = w + zero:
                  sum w a = 256 sum u high + sum u low - zero sum a, four products for each lane
    many tokens   a panel of weights as signed words times the words a, two products for each lane

A vector is a row tile: lane r belongs to row r of 16 (layouts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import E2M1, INT4, Weight, zeros
from firstlight.targets.cpu.kernels.panel import DEPTH, ROWS, Strip
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, across, add, get, put, spread

LANES = 16
GROUP = 32
"""Columns that share a scale of the weight."""
MOST = 127 * 256
"""The integer of the largest of 128 activations."""
LEAST = 1e-30
ROUNDER = 12582912.0
"""1.5 * 2**23: the sum of it and an integer has the integer in its low bits."""
WIDTH = 2
"""Row tiles of a register tile: 6 tokens of 2 integer and 2 float32 sums, and room for weights."""


@dataclass(frozen=True)
class Codes:
    """What the codes of a weight mean as integers: w = integer * unit.

    Attributes:
        table: the integers of four bits; None for signed bytes.
        zero: what is added to make them unsigned.
    """

    table: tuple[int, ...] | None
    zero: int
    unit: float

    def unsigned(self, v: Expr) -> list[Expr]:
        """A block as vectors of bytes u, lane r the next four k of row r."""
        if self.table is None:
            order = [32 * (j // 2) + 2 * r + j % 2 for r in range(TILE) for j in range(4)]
            return [T.bind(T.bitwise_xor(T.Shuffle([v], order), T.broadcast(T.int8(-128), 64)))]
        order = [16 * (r // 4) + 8 * (j // 2) + 2 * (r % 4) + j % 2
                 for r in range(TILE) for j in range(4)]
        return self._looked_up(v, order, [w + self.zero for w in self.table])

    def words(self, v: Expr) -> list[Expr]:
        """A block as vectors of words, lane r the next two k of row r."""
        if self.table is None:
            vectors = [v]
        else:
            order = [16 * (r // 4) + 8 * u + 2 * (r % 4) + p
                     for u in (0, 1) for r in range(TILE) for p in (0, 1)]
            vectors = self._looked_up(v, order, self.table)
        return [T.Cast("int16x32", T.Shuffle([vector], list(range(at, at + 32))))
                for vector in vectors for at in (0, 32)]

    def _looked_up(self, v: Expr, order: Sequence[int], table: Sequence[int]) -> list[Expr]:
        """Both nibbles of every byte. The instruction looks at six bits of an index: four times
        the same sixteen bytes, and what is beside the nibble does not matter."""
        words = [int.from_bytes(bytes(w & 255 for w in table[i: i + 8]), "little", signed=True)
                 for i in (0, 8)]
        codes = T.reinterpret("int8x64", T.Shuffle([T.int64(w) for w in words] * 4, list(range(8))))
        low = T.bind(T.Shuffle([v], list(order)))
        high = T.reinterpret("int8x64", T.shift_right(
            T.reinterpret("uint32x16", low), T.broadcast(T.uint32(4), LANES)))
        return [T.bind(T.call_llvm_pure_intrin(
            "int8x64", "llvm.x86.avx512.permvar.qi.512", codes, nibble)) for nibble in (low, high)]


CODES = {
    "fp4e2m1/32:ue8m0": Codes(tuple(int(2 * v) for v in E2M1), 12, 0.5),
    "int4/32:bf16": Codes(tuple(int(v) for v in INT4), 8, 1.0),
    "int8/32:bf16": Codes(None, 128, 1.0),
}


class Rounded:
    """Rows of activations as integers, with a float32 step for every 128 columns."""

    CODECS = frozenset(CODES)

    def __init__(self, rows: int, k: int) -> None:
        self.rows, self.blocks = rows, -(-k // DEPTH)
        self.groups = -(-k // GROUP)
        self.steps = T.alloc_buffer((rows, self.blocks), "float32")

    def fill(self, x: Any, count: Expr | None = None) -> None:
        """Round x [rows, .. >= whole groups]; of many rows the first `count`, side by side."""
        if self.rows == 1:
            self._row(x, 0)
            return
        with T.parallel(self.rows if count is None else count) as row:
            self._row(x, row)

    def _row(self, x: Any, row: Expr) -> None:
        with T.serial(self.blocks) as block:
            first = block * (DEPTH // GROUP)
            groups = T.bind(T.min(DEPTH // GROUP, self.groups - first))
            top = Cell(spread(LEAST, LANES), LANES)
            with T.serial(groups * 2) as i:
                v = T.bind(get(x, row, block * DEPTH + i * LANES, lanes=LANES))
                top.value = T.max(top.value, T.max(v, spread(0.0, LANES) - v))
            most = T.bind(across(top.value, LANES, T.max))
            put(self.steps, most * T.float32(1 / MOST), row, block)
            factor = T.bind(spread(T.float32(MOST) / most, LANES))
            with T.serial(groups) as g:
                at = block * DEPTH + g * GROUP
                shifted = [T.bind(T.fma(get(x, row, at + i, lanes=LANES), factor,
                                        spread(ROUNDER, LANES))) for i in (0, LANES)]
                bits = [T.bind(T.reinterpret("int32x16", s)) for s in shifted]
                self._keep(bits, row, at, first + g)

    def _keep(self, bits: Sequence[Expr], row: Expr, at: Expr, group: Expr) -> None:
        raise NotImplementedError


class Bytes(Rounded):
    """For a token alone: the upper and the lower bytes of the integers, and sums of 32."""

    def __init__(self, rows: int, k: int) -> None:
        super().__init__(rows, k)
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

    def tile(self, weight: Weight, tile: Expr, lanes: int, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row] as one vector; see `gemv.gemv_tile`."""
        codes, step = CODES[weight.codec], weight.form.step
        turns = GROUP // step
        grand, total = zeros(2, LANES)
        sums = [Cell(_none(), LANES, "int32") for _ in range(2)]
        with T.serial(self.blocks) as block:
            first = T.bind(block * (DEPTH // step))
            with T.serial(T.min(DEPTH // step, weight.steps - first)) as s:
                read = weight.reader(tile, first + s)
                v = T.bind(T.reinterpret("int8x64", read(0, 64)))
                for quad, u in enumerate(codes.unsigned(v)):
                    for plane, cell in enumerate(sums):
                        a = get(self.planes, row, plane, (first + s) * step + 4 * quad, lanes=4)
                        cell.value = T.call_llvm_pure_intrin(
                            "int32x16", "llvm.x86.avx512.vpdpbusd.512", cell.value, u, _four(a))
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
            grand.value = grand.value + total.value * spread(
                self.steps[row, block] * T.float32(codes.unit), LANES)
            total.value = spread(0.0, LANES)
        return [grand.value]


class Words(Rounded):
    """For many tokens: the integers as they are."""

    def __init__(self, rows: int, k: int) -> None:
        super().__init__(rows, k)
        self.values = T.alloc_buffer((rows, self.groups * GROUP), "int16")

    def _keep(self, bits: Sequence[Expr], row: Expr, at: Expr, group: Expr) -> None:
        for i, word in enumerate(bits):
            put(self.values, T.Cast("int16x16", word), row, at + i * LANES, lanes=LANES)

    def multiply(self, strips: Sequence[Strip], row: Callable[[Expr], Expr], count: Expr,
                 part: Any) -> None:
        """part[r] = x[row(r)] . (the strips side by side); see `panel.multiply`."""
        width = sum(s.tiles for s in strips) * TILE
        panel = T.alloc_buffer((DEPTH // 2, width, 2), "int16")
        scales = T.alloc_buffer((DEPTH // GROUP, width), "float32")
        pieces = [(0, width // (WIDTH * TILE), WIDTH * TILE)]
        if rest := width % (WIDTH * TILE):
            pieces.append((width - rest, 1, rest))
        with T.serial(self.blocks) as block:
            groups = T.bind(T.min(DEPTH // GROUP, self.groups - block * (DEPTH // GROUP)))
            column = 0
            for strip in strips:
                _decode(strip, block, groups, panel, scales, column)
                column += strip.tiles * TILE
            unit = CODES[strips[0].weight.codec].unit
            with T.serial(T.truncdiv(count + (ROWS - 1), T.int32(ROWS))) as m:
                rows = [T.bind(row(T.min(m * ROWS + i, count - 1))) for i in range(ROWS)]
                for first, times, wide in pieces:
                    with T.serial(times) as c:
                        self._register_tile(rows, panel, scales, part, m, first + c * wide, wide,
                                            block, groups, unit)

    def _register_tile(
        self, rows: Sequence[Expr], panel: Any, scales: Any, part: Any, m: Expr, column: Expr,
        width: int, block: Expr, groups: Expr, unit: float,
    ) -> None:  # fmt: skip
        columns = range(0, width, LANES)
        totals = [zeros(len(columns), LANES) for _ in rows]
        sums = [[Cell(_none(), LANES, "int32") for _ in columns] for _ in rows]
        with T.serial(groups) as group:
            with T.serial(GROUP // 2) as pair:
                at = T.bind(group * (GROUP // 2) + pair)
                ws = [T.bind(get(panel, at, column + j, 0, lanes=2 * LANES)) for j in columns]
                for r, line in zip(rows, sums, strict=True):
                    a = T.bind(_two(get(self.values, r, block * DEPTH + at * 2, lanes=2)))
                    for cell, w in zip(line, ws, strict=True):
                        cell.value = T.call_llvm_pure_intrin(
                            "int32x16", "llvm.x86.avx512.vpdpwssd.512", cell.value, w, a)
            scale = [T.bind(get(scales, group, column + j, lanes=LANES)) for j in columns]
            for line, total in zip(sums, totals, strict=True):
                for cell, grand, s in zip(line, total, scale, strict=True):
                    grand.value = grand.value + T.Cast("float32x16", cell.value) * s
                    cell.value = _none()
        for i, (r, line) in enumerate(zip(rows, totals, strict=True)):
            step = T.bind(spread(self.steps[r, block] * T.float32(unit), LANES))
            for grand, j in zip(line, columns, strict=True):
                before = T.Select(block > 0, get(part, m * ROWS + i, column + j, lanes=LANES),
                                  spread(0.0, LANES))
                put(part, before + grand.value * step, m * ROWS + i, column + j, lanes=LANES)


def _decode(strip: Strip, block: Expr, groups: Expr, panel: Any, scales: Any, column: int) -> None:
    """Columns `column` .. of the panel and of its scales = this block of k of the strip."""
    weight, form = strip.weight, strip.weight.form
    codes, turns = CODES[weight.codec], GROUP // form.step
    with T.serial(strip.tiles) as t:
        tile = T.bind(T.min(strip.first + t, strip.last))
        at = T.bind(column + t * TILE)
        with T.serial(groups) as g:
            group = T.bind(block * (DEPTH // GROUP) + g)
            put(scales, weight.scale(tile, group, 0, LANES), g, at, lanes=LANES)
            with T.serial(turns) as s:
                v = T.bind(T.reinterpret("int8x64", weight.reader(tile, group * turns + s)(0, 64)))
                for i, words in enumerate(codes.words(v)):
                    pair = (g * turns + s) * (form.step // 2) + i
                    put(panel, words, pair, at, 0, lanes=2 * LANES)


def _four(a: Expr) -> Expr:
    """Four bytes in every lane."""
    return T.reinterpret("int8x64", T.broadcast(T.reinterpret("int32", a), LANES))


def _two(a: Expr) -> Expr:
    """Two words in every lane."""
    return T.reinterpret("int16x32", T.broadcast(T.reinterpret("int32", a), LANES))


def _none() -> Expr:
    return T.broadcast(T.int32(0), LANES)
