"""All heads of one token against rows that they share: the inner product of attention and indexer.

A lane is a head. The queries of a token are packed once as columns, then each row is read once for
a whole block of heads, and no sums across lanes are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, get, put, spread


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
        for vector in range(self.vectors):
            head = T.bind(first + vector * self.lanes)
            start = T.bind(base + head * self.width)
            with T.serial(self.width) as k:
                at = place + k * self.block + vector * self.lanes
                with T.If(head + self.lanes <= self.heads):
                    with T.Then():
                        column = q[T.ramp(start + k, self.width, self.lanes)]
                        put(panel, column * spread(scale, self.lanes), at, lanes=self.lanes)
                    with T.Else(), T.serial(self.lanes) as lane:
                        value = T.if_then_else(
                            head + lane < self.heads,
                            q[start + k + lane * self.width] * T.float32(scale), T.float32(0),
                        )  # fmt: skip
                        put(panel, value, at + lane)

    def products(
        self, panel: Any, place: Expr, rows: Any, bases: Sequence[Expr]
    ) -> list[list[Expr]]:
        """<row, query> for rows of the flat buffer starting at `bases`: vectors [row][vector]."""
        n = self.lanes
        sums = [[Cell(spread(0.0, n), n) for _ in range(self.vectors)] for _ in bases]
        with T.serial(self.width) as k:
            at = place + k * self.block
            columns = [T.bind(get(panel, at + i * n, lanes=n)) for i in range(self.vectors)]
            for base, line in zip(bases, sums, strict=True):
                value = T.bind(spread(get(rows, base + k), n))
                for column, cell in zip(columns, line, strict=True):
                    cell.value = T.fma(value, column, cell.value)
        return [[cell.value for cell in line] for line in sums]
