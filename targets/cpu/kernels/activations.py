"""Activations as the products of a kernel read them: as they are, or rounded to integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from firstlight.targets.cpu.kernels import limbs, panel, vnni
from firstlight.targets.cpu.kernels.gemv import gemv_tile, x_copy
from firstlight.targets.cpu.kernels.micro import Weight
from firstlight.targets.cpu.kernels.vecmath import Expr

VECTORS = {"": None, "maddubs": limbs.Limbs, "vnni": vnni.Bytes}
"""Integers of one token, by the name of the instructions; "" for float32."""
ROWS = {"": None, "maddubs": None, "vnni": vnni.Words}
"""The same of many tokens."""


class _Kind(Protocol):
    """A class of the tables."""

    CODECS: frozenset[str]


class Vectors:
    """Rows of activations for matrix-vector tiles.

    Args:
        x: [rows, K] float32; behind K up to the padded K of every weight there must be zeros, as
            `gemv.x_copy` and buffers of the kernel's own have.
        integers: a key of `VECTORS`: round them for the weights that it knows.
    """

    def __init__(self, x: Any, rows: int, weights: Sequence[Weight], integers: str) -> None:
        self.x, kind = x, VECTORS[integers]
        self._codecs, padded = _wanted(kind, weights)
        self._rounded = kind(rows, padded) if kind and padded else None

    def fill(self) -> Vectors:
        """To be called when x has its values."""
        if self._rounded is not None:
            self._rounded.fill(self.x)
        return self

    def tile(self, weight: Weight, tile: Expr, lanes: int, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row] as ``16 // lanes`` vectors."""
        if self._rounded is not None and weight.codec in self._codecs:
            return self._rounded.tile(weight, tile, lanes, row)
        return gemv_tile(weight, tile, self.x, lanes, row)


class Rows:
    """Rows of activations for panels; arguments as for `Vectors`, and `count` rows in use."""

    def __init__(self, x: Any, rows: int, weights: Sequence[Weight], integers: str,
                 count: Expr | None = None) -> None:
        self.x, self._count, kind = x, count, ROWS[integers]
        self._codecs, padded = _wanted(kind, weights)
        self._rounded = kind(rows, padded) if kind and padded else None

    def fill(self) -> Rows:
        """To be called when x has its values."""
        if self._rounded is not None:
            self._rounded.fill(self.x, self._count)
        return self

    def multiply(self, strips: Sequence[panel.Strip], row: Callable[[Expr], Expr], count: Expr,
                 part: Any, lanes: int) -> None:
        """part[r] = x[row(r)] . (the strips side by side), for r < count; see `panel.multiply`."""
        codecs = {s.weight.codec for s in strips}
        if self._rounded is not None and len(codecs) == 1 and codecs <= self._codecs:
            self._rounded.multiply(strips, row, count, part)
        else:
            panel.multiply(strips, self.x, row, count, part, lanes)


def rows_of(x: Any, rows: int, k: int, weights: Sequence[Weight], integers: str, count: Expr,
            lanes: int) -> Rows:
    """Rows of a kernel's input x[count, k]; copied if integers need whole groups."""
    made = Rows(x, rows, weights, integers, count)
    if made._rounded is not None and k % vnni.GROUP:
        made.x = x_copy(x, count, k, weights, lanes, rows)
    return made.fill()


def _wanted(kind: type[_Kind] | None, weights: Sequence[Weight]) -> tuple[frozenset[str], int]:
    """The codecs that are multiplied in integers, and the most columns of such a weight."""
    codecs = kind.CODECS if kind else frozenset()
    return codecs, max((w.padded for w in weights if w.codec in codecs), default=0)
