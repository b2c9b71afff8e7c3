"""Products of 16-bit words: weights of four or eight bits, widened, times rounded activations.

Two products for each lane and instruction: pmaddwd and an addition, or vpdpwssd. A lane is a row of
the weight (layouts.py). One token streams the weight; many tokens run over a panel of it:

    panel           int16 [64 pairs of k][columns][2] and the scales of its groups, in the cache
    register tile   6 tokens x 2 vectors of columns, at 512 bits 3 x 4: integer sums; at 256 bits
                    the float32 sums of its groups are in the first-level cache
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Weight, byte_table, lookup, zeros
from firstlight.targets.cpu.kernels.panel import DEPTH, Strip, tiled
from firstlight.targets.cpu.kernels.rounded import CODES, GROUP, Codes, Rounded
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, get, put, spread

REGISTERS = {8: (6, 2), 16: (3, 4)}
"""lanes -> (tokens, vectors) of a register tile. Three by four loads seven registers for twelve
products, six by two eight: a core that loads one a cycle but multiplies two (Ice Lake) takes 0.87
of the time for all of the experts."""


class Words(Rounded):
    """The integers as they are."""

    VNNI = False

    def __init__(self, rows: int, k: int, lanes: int) -> None:
        super().__init__(rows, k, lanes)
        self.values = T.alloc_buffer((rows, self.groups * GROUP), "int16")

    def _keep(self, bits: Sequence[Expr], row: Expr, at: Expr, group: Expr) -> None:
        for i, word in enumerate(bits):
            put(self.values, T.Cast(f"int16x{self.lanes}", word), row, at + i * self.lanes,
                lanes=self.lanes)

    def _pair(self, row: Expr, k: Expr) -> Expr:
        """Activations k and k + 1 in every lane."""
        pair = T.reinterpret("int32", get(self.values, row, k, lanes=2))
        return T.reinterpret(f"int16x{2 * self.lanes}", T.broadcast(pair, self.lanes))

    def _dot(self, cell: Cell, words: Expr, pair: Expr) -> None:
        kind = f"int32x{self.lanes}"
        if self.VNNI:
            cell.value = T.call_llvm_pure_intrin(
                kind, "llvm.x86.avx512.vpdpwssd.512", cell.value, words, pair)
            return
        name = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[self.lanes]
        cell.value = cell.value + T.call_llvm_pure_intrin(kind, name, words, pair)

    def _none(self) -> Expr:
        return T.broadcast(T.int32(0), self.lanes)

    # ---- one token

    def tile(self, weight: Weight, tile: Expr, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row] as ``16 // lanes`` vectors; see `gemv.gemv_tile`."""
        lanes, step = self.lanes, weight.form.step
        halves, turns = TILE // lanes, GROUP // step
        grands, totals = zeros(halves, lanes), zeros(halves, lanes)
        sums = [Cell(self._none(), lanes, "int32") for _ in range(halves)]
        with T.serial(self.blocks) as block:
            first = T.bind(block * (DEPTH // step))
            with T.serial(T.min(DEPTH // step, weight.steps - first)) as s:
                read = weight.reader(tile, first + s)
                pairs = [T.bind(self._pair(row, (first + s) * step + k)) for k in range(0, step, 2)]
                for half, cell in enumerate(sums):
                    for words, pair in zip(_words(CODES[weight.codec], read, half, lanes), pairs,
                                           strict=True):
                        self._dot(cell, words, pair)
                # the branch is a wall for LLVM's scheduler, which otherwise spills
                with T.If(s % turns == turns - 1), T.Then():
                    group = T.bind(T.truncdiv(first + s, T.int32(turns)))
                    for half, (cell, total) in enumerate(zip(sums, totals, strict=True)):
                        total.value = (total.value + T.Cast(f"float32x{lanes}", cell.value)
                                       * weight.scale(tile, group, half, lanes))
                        cell.value = self._none()
            for grand, total in zip(grands, totals, strict=True):
                self.close(grand, total, self.step(row, block, CODES[weight.codec].unit))
        return [grand.value for grand in grands]

    # ---- many tokens

    def multiply(self, strips: Sequence[Strip], row: Callable[[Expr], Expr], count: Expr,
                 part: Any, done: Callable[[Expr], None], soon: Callable[[Expr], None]) -> None:
        """part[r] = x[row(r)] . (the strips side by side); see `panel.multiply`."""
        width = sum(s.tiles for s in strips) * TILE
        panel = T.alloc_buffer((DEPTH // 2, width, 2), "int16")
        scales = T.alloc_buffer((DEPTH // GROUP, width), "float32")
        size, vectors = REGISTERS[self.lanes]
        most = vectors * self.lanes
        pieces = [(0, width // most, most)] if width >= most else []
        if width % most:
            pieces.append((width - width % most, 1, width % most))
        unit = CODES[strips[0].weight.codec].unit

        def groups(block: Expr) -> Expr:
            return T.bind(T.min(DEPTH // GROUP, self.groups - block * (DEPTH // GROUP)))

        def fill(block: Expr) -> None:
            own, column = groups(block), 0
            for strip in strips:
                self._widen(strip, block, own, panel, scales, column)
                column += strip.tiles * TILE

        def visit(block: Expr, first: Expr, rows: Sequence[Expr], _: Sequence[Expr]) -> None:
            for column, times, wide in pieces:
                with T.serial(times) as c:
                    self._register_tile(rows, panel, scales, part, first, column + c * wide, wide,
                                        block, groups(block), unit)

        tiled(self.blocks, fill, visit, row, count, done, soon, self.lanes, size,
              half=self.lanes == 8)

    def _register_tile(
        self, rows: Sequence[Expr], panel: Any, scales: Any, part: Any, first: Expr, column: Expr,
        width: int, block: Expr, groups: Expr, unit: float,
    ) -> None:  # fmt: skip
        lanes, columns, pairs = self.lanes, range(0, width, self.lanes), GROUP // 2
        totals = [zeros(len(columns), lanes) for _ in rows]
        sums = [[Cell(self._none(), lanes, "int32") for _ in columns] for _ in rows]

        def multiply(pair: Expr) -> None:
            ws = [T.bind(get(panel, pair, column + j, 0, lanes=2 * lanes)) for j in columns]
            for r, line in zip(rows, sums, strict=True):
                a = T.bind(self._pair(r, block * DEPTH + pair * 2))
                for cell, w in zip(line, ws, strict=True):
                    self._dot(cell, w, a)

        def add(group: Expr) -> None:
            scale = [T.bind(get(scales, group, column + j, lanes=lanes)) for j in columns]
            for line, total in zip(sums, totals, strict=True):
                for cell, grand, s in zip(line, total, scale, strict=True):
                    grand.value = grand.value + T.Cast(f"float32x{lanes}", cell.value) * s
                    cell.value = self._none()

        def close(before: Callable[[int, int], Expr]) -> None:
            for i, (r, line) in enumerate(zip(rows, totals, strict=True)):
                step = self.step(r, block, unit)
                for total, j in zip(line, columns, strict=True):
                    grand = Cell(before(first + i, column + j), lanes)
                    self.close(grand, total, step)
                    put(part, grand.value, first + i, column + j, lanes=lanes)

        if lanes == 16:     # the branch is a wall for LLVM's scheduler, which otherwise spills
            with T.serial(groups * pairs) as pair:
                multiply(pair)
                with T.If(pair % pairs == pairs - 1), T.Then():
                    add(T.bind(T.truncdiv(pair, T.int32(pairs))))
        else:
            with T.serial(groups) as group:
                with T.serial(pairs) as pair:
                    multiply(T.bind(group * pairs + pair))
                add(group)
        with T.If(block > 0):
            with T.Then():
                close(lambda r, j: get(part, r, j, lanes=lanes))
            with T.Else():
                close(lambda r, j: spread(0.0, lanes))

    def _widen(self, strip: Strip, block: Expr, groups: Expr, panel: Any, scales: Any,
               column: int) -> None:
        """Columns `column` .. of the panel and of its scales = this block of k of the strip."""
        weight, step, lanes = strip.weight, strip.weight.form.step, self.lanes
        turns = GROUP // step
        with T.serial(strip.tiles) as t:
            tile = T.bind(T.min(strip.first + t, strip.last))
            with T.serial(groups) as g:
                group = T.bind(block * (DEPTH // GROUP) + g)
                for half in range(TILE // lanes):
                    at = column + t * TILE + half * lanes
                    put(scales, weight.scale(tile, group, half, lanes), g, at, lanes=lanes)
                    with T.serial(turns) as s:
                        read = weight.reader(tile, group * turns + s)
                        for i, words in enumerate(_words(CODES[weight.codec], read, half, lanes)):
                            pair = (g * turns + s) * (step // 2) + i
                            put(panel, words, pair, at, 0, lanes=2 * lanes)


class VnniWords(Words):
    """The same with AVX-512 VNNI."""

    VNNI = True


def _words(codes: Codes, read: Callable[[int, int], Expr], half: int, lanes: int) -> list[Expr]:
    """`lanes` rows of a block as vectors of words, lane r the next two k of row r."""
    if codes.table is None:
        return [T.Cast(f"int16x{2 * lanes}", T.reinterpret(
            f"int8x{2 * lanes}", read(32 * q + 2 * lanes * half, 2 * lanes))) for q in (0, 1)]
    order = [16 * (r // 4) + 8 * u + 2 * (r % 4) + p
             for u in (0, 1) for r in range(lanes) for p in (0, 1)]
    v = T.reinterpret(f"int8x{4 * lanes}", read(4 * lanes * half, 4 * lanes))
    v = T.bind(T.reinterpret(f"uint32x{lanes}", T.Shuffle([v], order)))
    table = byte_table([w & 255 for w in codes.table], lanes)
    return [T.Cast(f"int16x{2 * lanes}", T.Shuffle([both], list(range(at, at + 2 * lanes))))
            for both in [T.bind(lookup(table, v, 4 * h, lanes)) for h in (0, 1)]
            for at in (0, 2 * lanes)]
