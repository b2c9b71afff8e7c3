"""One token times weights of four or eight bits, in products of bytes.

With activations a = 256 high + low in bytes and weights as unsigned bytes u = w + zero,

    sum w a = 256 sum u high + sum u low - zero sum a

are the integers of words.py, in fewer instructions: no weight is widened. A lane is a row of the
weight (layouts.py), its four bytes are four k.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Weight, byte_table, lookup, zeros
from firstlight.targets.cpu.kernels.panel import DEPTH
from firstlight.targets.cpu.kernels.rounded import CODES, GROUP, Codes, Rounded
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, add, get, put, spread


class Planes(Rounded):
    """Upper and lower bytes of the integers, and sums of 32 of them."""

    SPAN = 1
    """Blocks that are multiplied before their products are added to a cell."""
    CELLS = 1
    """Cells of a half tile."""

    def __init__(self, rows: int, k: int, lanes: int) -> None:
        super().__init__(rows, k, lanes)
        self.planes = T.alloc_buffer((rows, 2, self.groups * GROUP), "int8")
        self.sums = T.alloc_buffer((rows, self.groups), "int32")

    def _keep(self, bits: Sequence[Expr], row: Expr, at: Expr, group: Expr) -> None:
        lanes = self.lanes
        for i, word in enumerate(bits):
            upper = T.shift_right(word + self._all(128), self._all(8))
            for plane, value in enumerate((upper, word)):
                put(self.planes, T.Cast(f"int8x{lanes}", value), row, plane, at + i * lanes,
                    lanes=lanes)
        whole = T.bind(reduce(add, [word - self._all(0x4B400000) for word in bits]))
        put(self.sums, reduce(add, [T.Shuffle([whole], [i]) for i in range(lanes)]), row, group)

    def tiles(self, parts: Sequence[tuple[Weight, Expr, Expr]]) -> list[list[Expr]]:
        """For each (W, tile, row) 16 rows of W x[row] as ``16 // lanes`` vectors.

        Weights of one shape are read side by side: each is a stream from memory of its own, and
        where one begins a page, the others go on.
        """
        (weight, *_), lanes = parts[0], self.lanes
        turns, unit = GROUP // weight.form.step, CODES[weight.codec].unit
        outs = [T.alloc_buffer((TILE,), "float32") for _ in parts]
        for out in outs:
            for at in range(0, TILE, lanes):
                put(out, spread(0.0, lanes), at, lanes=lanes)
        with T.serial(self.blocks) as block, T.serial(TILE // lanes) as half:
            first = T.bind(block * (DEPTH // GROUP))
            totals = zeros(len(parts), lanes)
            with T.serial(T.min(DEPTH // GROUP, weight.steps // turns - first)) as g:
                group = T.bind(first + g)
                for part, total in zip(parts, totals, strict=True):
                    total.value = total.value + self._group(*part, group, half)
            for (_, _, row), total, out in zip(parts, totals, outs, strict=True):
                grand = Cell(get(out, half * lanes, lanes=lanes), lanes)
                self.close(grand, total, self.step(row, block, unit))
                put(out, grand.value, half * lanes, lanes=lanes)
        return [[get(out, at, lanes=lanes) for at in range(0, TILE, lanes)] for out in outs]

    def _group(self, weight: Weight, tile: Expr, row: Expr, group: Expr, half: Expr) -> Expr:
        """The products of a group, scaled."""
        lanes, step = self.lanes, weight.form.step
        turns = GROUP // step
        cells = [Cell(self._all(0), lanes, "int32") for _ in range(self.CELLS)]
        for turn in range(0, turns, self.SPAN):
            quads = [u for i in range(self.SPAN)
                     for u in self._block(weight, tile, group * turns + turn + i, half)]
            self._add(cells, quads, row, group * GROUP + turn * step)
        shift = self._all(self.sums[row, group] * CODES[weight.codec].zero)
        whole = T.Cast(f"float32x{lanes}", self._whole(cells) - shift)
        return whole * weight.scale(tile, group, half, lanes)

    def _block(self, weight: Weight, tile: Expr, step: Expr, half: Expr) -> list[Expr]:
        """One block of `lanes` rows as vectors of u, lane r the next four k of row r."""
        width = 4 * self.lanes
        read = weight.reader(tile, step)(width * half, width)
        return self._unsigned(CODES[weight.codec], T.bind(T.reinterpret(f"int8x{width}", read)))

    def _add(self, cells: Sequence[Cell], quads: Sequence[Expr], row: Expr, k: Expr) -> None:
        """cells += products of `quads` with the activations from k on, four for each."""
        raise NotImplementedError

    def _whole(self, cells: Sequence[Cell]) -> Expr:
        """What the cells stand for, 256 sum u high + sum u low."""
        raise NotImplementedError

    def _unsigned(self, codes: Codes, v: Expr) -> list[Expr]:
        """A block as it is stored -> vectors of u."""
        raise NotImplementedError

    def _four(self, row: Expr, plane: int, k: Expr) -> Expr:
        """Bytes of activations k .. k + 3 in every lane."""
        a = T.reinterpret("int32", get(self.planes, row, plane, k, lanes=4))
        return T.reinterpret(f"int8x{4 * self.lanes}", self._all(a))

    def _all(self, value: Expr | int) -> Expr:
        return T.broadcast(T.int32(value) if isinstance(value, int) else value, self.lanes)


class VnniPlanes(Planes):
    """With AVX-512 VNNI: four products for each lane and instruction, added to 32 bits."""

    CELLS = 4

    def _add(self, cells: Sequence[Cell], quads: Sequence[Expr], row: Expr, k: Expr) -> None:
        for quad, u in enumerate(quads):
            for plane, cell in enumerate(cells[2 * quad: 2 * quad + 2]):
                cell.value = T.call_llvm_pure_intrin(
                    "int32x16", "llvm.x86.avx512.vpdpbusd.512", cell.value, u,
                    self._four(row, plane, k + 4 * quad))

    def _whole(self, cells: Sequence[Cell]) -> Expr:
        high, low = (a.value + b.value for a, b in zip(cells[:2], cells[2:], strict=True))
        return T.shift_left(high, self._all(8)) + low

    def _unsigned(self, codes: Codes, v: Expr) -> list[Expr]:
        if codes.table is None:
            order = [32 * (j // 2) + 2 * r + j % 2 for r in range(TILE) for j in range(4)]
            return [T.bind(T.bitwise_xor(T.Shuffle([v], order), T.broadcast(T.int8(-128), 64)))]
        # The instruction looks at six bits of an index: with the sixteen bytes four times it does
        # not matter what is beside the nibble.
        looked = byte_table([w + codes.zero for w in codes.table], self.lanes)
        low = T.bind(T.Shuffle([v], _row_order(self.lanes)))
        high = T.reinterpret("int8x64", T.shift_right(
            T.reinterpret("uint32x16", low), T.broadcast(T.uint32(4), self.lanes)))
        return [T.bind(T.call_llvm_pure_intrin(
            "int8x64", "llvm.x86.avx512.permvar.qi.512", looked, nibble)) for nibble in (low, high)]


class PairPlanes(Planes):
    """With pmaddubsw: two products for each 16 bits, eight in all before they must be widened.

    Only weights of four bits: 8 * 24 * 128 fit 16 bits, two products of eight do not.
    """

    SPAN = 2
    CODECS = frozenset(codec for codec, codes in CODES.items() if codes.table is not None)

    def _add(self, cells: Sequence[Cell], quads: Sequence[Expr], row: Expr, k: Expr) -> None:
        lanes, (cell,) = self.lanes, cells
        bytes_, words = {
            8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
            16: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
        }[lanes]
        for plane, weight in enumerate((256, 1)):
            pairs = reduce(add, [T.call_llvm_pure_intrin(
                f"int16x{2 * lanes}", bytes_, u, self._four(row, plane, k + 4 * quad))
                for quad, u in enumerate(quads)])
            factor = T.broadcast(T.int16(weight), 2 * lanes)
            cell.value = cell.value + T.call_llvm_pure_intrin(
                f"int32x{lanes}", words, pairs, factor)

    def _whole(self, cells: Sequence[Cell]) -> Expr:
        return cells[0].value

    def _unsigned(self, codes: Codes, v: Expr) -> list[Expr]:
        assert codes.table is not None
        table = byte_table([w + codes.zero for w in codes.table], self.lanes)
        v = T.bind(T.reinterpret(f"uint32x{self.lanes}", T.Shuffle([v], _row_order(self.lanes))))
        return [T.bind(lookup(table, v, shift, self.lanes)) for shift in (0, 4)]


def _row_order(lanes: int) -> list[int]:
    """Where the bytes of row r lie among those of `lanes` rows of four-bit codes."""
    return [16 * (r // 4) + 8 * (j // 2) + 2 * (r % 4) + j % 2
            for r in range(lanes) for j in range(4)]
