"""All heads of one token against rows that they share: the inner product of attention and indexer.

A lane is a head. The queries of a token are packed once as columns, then each row is read once for
a whole block of heads, and no sums across lanes are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, get, put, spread, transposed

VISITS = 16
"""Times that `Heads.products` does something else in between: more than a tile has rows."""


@dataclass(frozen=True)
class Heads:
    """Queries [heads, width] in blocks of `block` heads: ``panel[block][k][head]``.

    The last block is filled up with zero queries.
    """

    heads: int
    width: int
    lanes: int

    @property
    def vectors(self) -> int:
        """Registers per block."""
        return 1 if self.heads <= self.lanes else 2

    @property
    def block(self) -> int:
        """Heads per block."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.heads // self.block)

    @property
    def tile(self) -> int:
        """Rows per register tile: enough chains to hide the latency of an FMA, and no spills."""
        if self.lanes == 16:
            return 12
        return 6 if self.vectors == 2 else 8

    def padded(self, rows: int) -> int:
        """`rows` rounded up to whole tiles."""
        return -(-rows // self.tile) * self.tile

    @property
    def panel_size(self) -> int:
        """Floats of one block's panel."""
        return self.width * self.block

    def pack(self, q: Any, base: Expr, block: Expr, panel: Any, place: Expr, scale: float) -> None:
        """panel[place ..] = scale * queries of `block`; q is flat, the token's start at `base`."""
        first = T.bind(block * self.block)
        n = self.lanes
        whole = self.width // n * n
        for vector in range(self.vectors):
            head = T.bind(first + vector * n)
            start = T.bind(base + head * self.width)

            def copied(k: Expr, lane: Expr, head: Expr = head, start: Expr = start,
                       column: int = vector * n) -> None:
                value = T.if_then_else(head + lane < self.heads,
                                       q[start + k + lane * self.width] * T.float32(scale),
                                       T.float32(0))
                put(panel, value, place + k * self.block + column + lane)

            with T.If(head + n <= self.heads):
                with T.Then():
                    with T.serial(whole // n) as square:
                        k = T.bind(square * n)
                        rows = [T.bind(get(q, start + i * self.width + k, lanes=n))
                                for i in range(n)]
                        for j, column in enumerate(transposed(rows, n)):
                            put(panel, column * spread(scale, n),
                                place + (k + j) * self.block + vector * n, lanes=n)
                    with T.serial(whole, self.width) as k, T.serial(n) as lane:
                        copied(k, lane)
                with T.Else(), T.serial(self.width) as k, T.serial(n) as lane:
                    copied(k, lane)

    def products(
        self, panel: Any, place: Expr, rows: Any, bases: Sequence[Expr],
        visit: Callable[[Expr], Callable[[Expr], None] | None] | None = None,
    ) -> list[list[Expr]]:  # fmt: skip
        """<row, query> for rows of the flat buffer starting at `bases`: vectors [row][vector].

        visit: what is done meanwhile, `VISITS` times, numbered; what it returns is called before
            each of the ``width // VISITS`` steps that follow, numbered.
        """
        n = self.lanes
        sums = [[Cell(spread(0.0, n), n) for _ in range(self.vectors)] for _ in bases]

        def step(k: Expr) -> None:
            at = place + k * self.block
            columns = [T.bind(get(panel, at + i * n, lanes=n)) for i in range(self.vectors)]
            for base, line in zip(bases, sums, strict=True):
                value = T.bind(spread(get(rows, base + k), n))
                for column, cell in zip(columns, line, strict=True):
                    cell.value = T.fma(value, column, cell.value)

        part = self.width // VISITS if visit else 0
        if visit:
            with T.serial(VISITS) as number:
                each = visit(number)
                first = T.bind(number * part)
                with T.serial(part) as k:
                    if each:
                        each(k)
                    step(first + k)
        with T.serial(part * VISITS, self.width) as k:
            step(k)
        return [[cell.value for cell in line] for line in sums]
