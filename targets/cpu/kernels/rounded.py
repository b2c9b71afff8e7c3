"""Activations as integers, and what the codes of a weight are as integers.

Of 128 activations each is rounded to an integer |a| <= 32512 times a step: an error of at most
1.6e-5 of the largest of them. Products are exact until a group of 32 has been summed; groups are
then added in one order, so that a token alone and a chunk of tokens give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.micro import E2M1, INT4
from firstlight.targets.cpu.kernels.panel import DEPTH
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import (
    ROUNDER,
    Cell,
    Expr,
    across,
    get,
    put,
    spread,
)

GROUP = 32
"""Columns that share a scale of the weight."""
MOST = 127 * 256
"""The integer of the largest of 128 activations: its upper byte is signed, too."""
LEAST = 1e-30


@dataclass(frozen=True)
class Codes:
    """What the codes of a weight mean: w = integer * unit.

    Attributes:
        table: the integers of four bits; None for signed bytes.
        zero: what is added to make them unsigned.
    """

    table: tuple[int, ...] | None
    zero: int
    unit: float


CODES = {
    "fp4e2m1/32:ue8m0": Codes(tuple(int(2 * v) for v in E2M1), 12, 0.5),
    "int4/32:bf16": Codes(tuple(int(v) for v in INT4), 8, 1.0),
    "int8/32:bf16": Codes(None, 128, 1.0),
}


class Rounded:
    """Rows of activations as integers, with a float32 step for every 128 columns."""

    CODECS = frozenset(CODES)

    def __init__(self, rows: int, k: int, lanes: int) -> None:
        self.rows, self.lanes, self.blocks = rows, lanes, -(-k // DEPTH)
        self.groups = -(-k // GROUP)
        self.steps = T.alloc_buffer((rows, self.blocks), "float32")

    def fill(self, x: Any, count: Expr | None = None) -> None:
        """Round x [rows, .. >= whole groups]; of many rows the first `count`, side by side."""
        with loop(self.rows if count is None else count, self.rows * self.blocks * DEPTH) as row:
            self._row(x, row)

    def _row(self, x: Any, row: Expr) -> None:
        lanes = self.lanes
        with T.serial(self.blocks) as block:
            first = block * (DEPTH // GROUP)
            groups = T.bind(T.min(DEPTH // GROUP, self.groups - first))
            top = Cell(spread(LEAST, lanes), lanes)
            with T.serial(groups * (GROUP // lanes)) as i:
                v = T.bind(get(x, row, block * DEPTH + i * lanes, lanes=lanes))
                top.value = T.max(top.value, T.max(v, spread(0.0, lanes) - v))
            most = T.bind(across(top.value, lanes, T.max))
            put(self.steps, most * T.float32(1 / MOST), row, block)
            factor = T.bind(spread(T.float32(MOST) / most, lanes))
            with T.serial(groups) as g:
                at = block * DEPTH + g * GROUP
                bits = [T.bind(T.reinterpret(f"int32x{lanes}", T.fma(
                    get(x, row, at + i, lanes=lanes), factor, spread(ROUNDER, lanes))))
                    for i in range(0, GROUP, lanes)]
                self._keep(bits, row, at, first + g)

    def _keep(self, bits: Sequence[Expr], row: Expr, at: Expr, group: Expr) -> None:
        """Store 32 integers, which are in the low 16 bits."""
        raise NotImplementedError

    def step(self, row: Expr, block: Expr, unit: float) -> Expr:
        """What one in the sum of a block's products is worth, in every lane."""
        return T.bind(spread(self.steps[row, block] * T.float32(unit), self.lanes))

    def close(self, grand: Cell, total: Cell, step: Expr) -> None:
        """The end of a block: the sum of its groups times the step of its activations."""
        grand.value = grand.value + total.value * step
        total.value = spread(0.0, self.lanes)
