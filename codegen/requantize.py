"""Weights in another codec than the checkpoint's, decoded and encoded again piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.weights import Lost, Source
from firstlight.ir.codecs import decode_weight
from firstlight.ir.scales import quantize
from firstlight.ir.types import CODECS

Array = NDArray[Any]


@dataclass(frozen=True)
class Requantized:
    """A `firstlight.codegen.weights.Source` in `codec`.

    importance: [K], what the error of a column weighs (`firstlight.ir.scales.quantize`).
    lost: of the pieces so far.

    A piece of rows becomes a piece of rows. A codec with blocks of rows (fp8) keeps the codes of
    one matrix in memory, because its scales have to be known before the first piece.
    """

    source: Source
    codec: str
    importance: NDArray[np.float32] | None = None
    lost: Lost = field(default_factory=Lost)

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        return self.source.shape

    def pieces(self, rows: int) -> Iterator[tuple[int, Array, Array | None]]:
        """As of any source; `rows` is a multiple of the codec's blocks, or more than there are.

        `lost` begins anew with the first.
        """
        self.lost.squares = self.lost.errors = 0.0
        if CODECS[self.codec].block[0] == 1:
            yield from self._encoded(rows)
            return
        matrix: list[tuple[int, Array, Array | None]] = []
        for piece in self._encoded(rows):
            if piece[0] == 0:
                yield from _with_all_scales(matrix)
                matrix = []
            matrix.append(piece)
        yield from _with_all_scales(matrix)

    def _encoded(self, rows: int) -> Iterator[tuple[int, Array, Array | None]]:
        for first, codes, scales in self.source.pieces(rows):
            values = decode_weight(codes, scales, self.source.codec, first)
            new_codes, new_scales = quantize(values, self.codec, self.importance)
            error = decode_weight(new_codes, new_scales, self.codec) - values
            self.lost.add(Lost(_square(values), _square(error)))
            yield first, new_codes, new_scales


def _square(x: Array) -> float:
    return float(np.einsum("ij,ij->", x, x, dtype=np.float64))


def _with_all_scales(matrix: list[tuple[int, Array, Array | None]],
                     ) -> Iterator[tuple[int, Array, Array | None]]:
    if matrix:
        scales = np.concatenate([s for _, _, s in matrix if s is not None])
        yield from ((first, codes, scales) for first, codes, _ in matrix)
