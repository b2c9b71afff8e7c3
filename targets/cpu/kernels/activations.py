"""Activations as the products of a kernel read them: as they are, rounded, or lifted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from firstlight.targets.cpu.kernels import lifted, panel, planes, words
from firstlight.targets.cpu.kernels.gemv import gemv_tile, x_copy
from firstlight.targets.cpu.kernels.micro import Weight
from firstlight.targets.cpu.kernels.rounded import GROUP
from firstlight.targets.cpu.kernels.vecmath import Expr

WAYS: dict[str, tuple[tuple[type[Any], ...], tuple[type[Any], ...]]] = {
    "": ((), ()),
    "words": ((planes.PairPlanes, words.Words), (words.Words,)),
    "lifted": ((lifted.Lifted,), ()),
    "lifted words": ((planes.PairPlanes, words.Words, lifted.Lifted), (words.Words,)),
    "vnni": ((planes.VnniPlanes,), (words.VnniWords,)),
    "lifted vnni": ((planes.VnniPlanes, lifted.Lifted), (words.VnniWords,)),
}
"""Preparations for one token and for many, by name; "" for float32 as it is. Of several the first
that knows the codec of a weight."""


def weight_of(codec: str, count: int, n: int, k: int, way: str) -> Weight:
    """A `Weight` as the preparations of a way read it."""
    quads = lifted.Lifted in WAYS[way][0] and codec in lifted.Lifted.CODECS
    return Weight(codec, count, n, k, quads)


class Vectors:
    """Rows of activations for matrix-vector tiles.

    Args:
        x: [rows, K] float32; behind K up to the padded K of every weight there must be zeros, as
            `gemv.x_copy` and buffers of the kernel's own have.
        way: a key of `WAYS`, for the codecs that it knows.
    """

    def __init__(self, x: Any, rows: int, weights: Sequence[Weight], lanes: int,
                 way: str) -> None:
        self.x, self._lanes = x, lanes
        self._prepared = _prepared(0, rows, weights, lanes, way)

    def fill(self) -> Vectors:
        """To be called when x has its values."""
        for kind in _different(self._prepared):
            kind.fill(self.x)
        return self

    def tile(self, weight: Weight, tile: Expr, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row] as ``16 // lanes`` vectors."""
        (values,) = self.tiles([(weight, tile, row)])
        return values

    def tiles(self, parts: Sequence[tuple[Weight, Expr, Expr]]) -> list[list[Expr]]:
        """The same for each (W, tile, row); side by side where that is worth it."""
        prepared = self._prepared.get(parts[0][0].codec)
        if isinstance(prepared, planes.Planes) and len({(w.codec, w.k) for w, *_ in parts}) == 1:
            return prepared.tiles(parts)
        if len(parts) > 1:
            return [values for part in parts for values in self.tiles([part])]
        ((weight, tile, row),) = parts
        if prepared is not None:
            return [prepared.tile(weight, tile, row)]
        return [gemv_tile(weight, tile, self.x, self._lanes, row)]


class Rows:
    """Rows of activations for panels; arguments as for `Vectors`, and `count` rows in use."""

    def __init__(self, x: Any, rows: int, weights: Sequence[Weight], lanes: int, way: str,
                 count: Expr) -> None:
        self.x, self._lanes, self._count = x, lanes, count
        self._prepared = _prepared(1, rows, weights, lanes, way)

    @classmethod
    def given(cls, x: Any, rows: int, k: int, weights: Sequence[Weight], lanes: int, way: str,
              count: Expr) -> Rows:
        """Rows of a kernel's input x[count, k]; copied where integers need whole groups."""
        made = cls(x, rows, weights, lanes, way, count)
        if made._prepared and k % GROUP:
            made.x = x_copy(x, count, k, weights, lanes, rows)
        return made.fill()

    def fill(self) -> Rows:
        """To be called when x has its values."""
        for kind in _different(self._prepared):
            kind.fill(self.x, self._count)
        return self

    def multiply(self, strips: Sequence[panel.Strip], row: Callable[[Expr], Expr], count: Expr,
                 part: Any, done: Callable[[Expr], None],
                 soon: Callable[[Expr], None] = lambda r: None) -> None:
        """part[r] = x[row(r)] . (the strips side by side), for r < count; see `panel.multiply`."""
        codecs = {s.weight.codec for s in strips}
        if len(codecs) == 1 and codecs <= self._prepared.keys():
            self._prepared[codecs.pop()].multiply(strips, row, count, part, done, soon)
        else:
            panel.multiply(strips, self.x, row, count, part, done, soon, self._lanes)


def _prepared(which: int, rows: int, weights: Sequence[Weight], lanes: int,
             way: str) -> dict[str, Any]:
    """Room for what weights of a codec are multiplied with."""
    kinds: dict[str, type[Any]] = {}
    for kind in WAYS[way][which]:
        for weight in weights:
            if weight.codec in kind.CODECS:
                kinds.setdefault(weight.codec, kind)
    made = {kind: kind(rows, max(w.padded for w in weights if kinds.get(w.codec) is kind), lanes)
            for kind in dict.fromkeys(kinds.values())}
    return {codec: made[kind] for codec, kind in kinds.items()}


def _different(prepared: Mapping[str, Any]) -> list[Any]:
    """Each of the preparations once."""
    return list(dict.fromkeys(prepared.values()))
