"""Heads of one token, or of several, against rows that they share: the inner product of attention
and indexer.

A lane is a head. Queries are packed once as columns, then each row is read once for
a whole block of heads. Where a register has room for all heads, a lane is a head and one of two
columns, which are added at the end: an element of a row is spread to two products then, not one,
and cores that load one register a cycle but multiply two are not held up by loads (Ice Lake's
scores take 0.7 of the time).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    ceil_div,
    get,
    put,
    spread,
    transposed,
)

WIDEST = {8: 2, 16: 4}
"""lanes -> most registers of a row's scores. With four, a tile of six rows loads ten registers for
24 products: on cores that load one a cycle but multiply two (Ice Lake) attention takes 0.93 of the
time that it takes with two and twelve rows."""
VISITS = 16
"""Times that `Heads.products` does something else in between: more than a tile has rows."""


@dataclass(frozen=True)
class Heads:
    """Queries [heads, width] in blocks of `block` heads: ``panel[block][k][head]``.

    The last block is filled up with zero queries.

    Attributes:
        half: results fill half a register: of so few heads, two columns fill one.
    """

    heads: int
    width: int
    lanes: int
    half: bool = False

    def share(self) -> Heads | None:
        """Heads that a thread has alone: two columns of them fill its registers, and there are
        several such threads; else None."""
        size = self.lanes if self.heads > self.lanes else self.lanes // 2
        if self.heads % size or self.heads == size or self.width % 2:
            return None
        return Heads(size, self.width, self.lanes, size < self.lanes)

    @property
    def columns(self) -> int:
        """Columns of a register."""
        return 2 if self.heads <= self.lanes and self.width % 2 == 0 else 1

    @property
    def results(self) -> int:
        """Registers of a row's scores."""
        registers = ceil_div(self.heads, self.lanes)
        return ceil_div(registers, ceil_div(registers, WIDEST[self.lanes]))

    @property
    def vectors(self) -> int:
        """Registers of a block's queries."""
        return self.results * self.columns // (2 if self.half else 1)

    @property
    def across(self) -> int:
        """Heads in a register of results."""
        return self.lanes // (2 if self.half else 1)

    @property
    def block(self) -> int:
        """Heads per block."""
        return self.results * self.across

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.heads // self.block)

    @property
    def tile(self) -> int:
        """Rows per register tile: enough chains to hide the latency of an FMA, and no spills."""
        if self.lanes == 16:
            return min(12, 24 // self.vectors)
        return 6 if self.vectors == 2 else 8

    def padded(self, rows: Expr) -> Expr:
        """`rows` rounded up to whole tiles."""
        return ceil_div(rows, self.tile) * self.tile

    @property
    def panel_size(self) -> int:
        """Floats of one block's panel."""
        return self.width * self.block

    def pack(self, q: Any, base: Expr, block: Expr, panel: Any, place: Expr, scale: float,
             there: Expr | None = None) -> None:  # fmt: skip
        """panel[place ..] = scale * queries of `block`; q is flat, the token's start at `base`.

        there: heads that q has from `base` on, whole registers; copies of the last register stand
            in for others, and nobody reads their sums.
        """
        n, wide = self.lanes, self.columns
        heads = n // wide
        whole = self.width // n * n
        for vector in range(self.vectors):
            head = T.bind(block * self.block + vector * heads)
            known = head if there is None else T.min(head, there - heads)
            start = T.bind(base + known * self.width)

            def at(k: Expr, vector: int = vector) -> Expr:
                """Where columns k .. of this vector lie."""
                return place + (k // wide * self.vectors + vector) * n

            def copied(k: Expr, lane: Expr, head: Expr = head, start: Expr = start,
                       at: Callable[[Expr], Expr] = at) -> None:
                value = T.if_then_else(head + lane < self.heads,
                                       q[start + k + lane * self.width] * T.float32(scale),
                                       T.float32(0))
                put(panel, value, at(k) + lane * wide + k % wide)

            with T.If(head + heads <= self.heads):
                with T.Then():
                    with T.serial(whole // n) as square:
                        k = T.bind(square * n)
                        rows = [T.bind(get(q, start + i * self.width + k, lanes=n))
                                for i in range(heads)]
                        for j, column in enumerate(transposed(rows, n)):
                            put(panel, column * spread(scale, n), at(k + j * wide), lanes=n)
                    with T.serial(whole, self.width) as k, T.serial(heads) as lane:
                        copied(k, lane)
                with T.Else(), T.serial(self.width) as k, T.serial(heads) as lane:
                    copied(k, lane)

    def products(
        self, panel: Any, place: Expr, rows: Any, bases: Sequence[Expr],
        visit: Callable[[Expr], Callable[[Expr], None] | None] | None = None,
    ) -> list[list[Expr]]:  # fmt: skip
        """<row, query> for rows of the flat buffer starting at `bases`: vectors [row][result] of
        `across` heads.

        visit: what is done meanwhile, `VISITS` times, numbered; what it returns is called before
            each of the ``width // VISITS`` columns that follow, numbered.
        """
        n, wide = self.lanes, self.columns
        steps = self.width // wide
        sums = [[Cell(spread(0.0, n), n) for _ in range(self.vectors)] for _ in bases]

        def step(k: Expr) -> None:
            at = place + k * (self.vectors * n)
            columns = [T.bind(get(panel, at + i * n, lanes=n)) for i in range(self.vectors)]
            for base, line in zip(bases, sums, strict=True):
                value = T.bind(repeated(rows, base + k * wide, wide, n))
                for column, cell in zip(columns, line, strict=True):
                    cell.value = T.fma(value, column, cell.value)

        part = steps // VISITS if visit else 0
        if visit:
            with T.serial(VISITS) as number:
                each = visit(number)
                first = T.bind(number * part)
                with T.serial(part) as k:
                    for column in range(wide if each else 0):
                        each(k * wide + column)
                    step(first + k)
        with T.serial(part * VISITS, steps) as k:
            step(k)
        values = [[cell.value for cell in line] for line in sums]
        return values if wide == 1 else [[_folded(line, n)] for line in values]


def repeated(buffer: Any, at: Expr, count: int, lanes: int) -> Expr:
    """`count` float32, one or two, again and again."""
    if count == 1:
        return spread(buffer[at], lanes)
    both = T.reinterpret("float64", get(buffer, at, lanes=2))
    return T.reinterpret(f"float32x{lanes}", T.broadcast(both, lanes // 2))


def _folded(vectors: Sequence[Expr], lanes: int) -> Expr:
    """Sums of neighbours in one or two vectors."""
    even, odd = (T.Shuffle([T.bind(v) for v in vectors], list(range(i, len(vectors) * lanes, 2)))
                 for i in (0, 1))
    return T.bind(even + odd)
