"""The weight layouts of the CPU kernels, as the artifact writer asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from firstlight.codegen.target import ArraySpec
from firstlight.targets.cpu.kernels import layouts

Array = NDArray[Any]


class TilePacker:
    """Row tiles; ``tile16.grouped/G`` cuts a matrix [G*N, K] into G matrices first."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[ArraySpec,
                                                                             ArraySpec | None]:
        """As `firstlight.codegen.target.Packer`."""
        return layouts.packed_shapes(*_grouped(layout, shape, codec))

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, Array | None]:
        """As `firstlight.codegen.target.Packer`."""
        name, _, parts = _grouped(layout, shape, codec)
        return layouts.pack(name, codes, scales, codec, parts, first_row)


def _grouped(layout: str, shape: Sequence[int], codec: str) -> tuple[str, str, Sequence[int]]:
    name, _, groups = layout.partition("/")
    if groups:
        rows, columns = shape
        shape = (int(groups), rows // int(groups), columns)
    return name, codec, shape
