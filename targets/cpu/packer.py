"""The weight layouts of the CPU kernels, as the artifact writer asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from firstlight.codegen.target import ArraySpec
from firstlight.targets.cpu.kernels import layouts

Array = NDArray[Any]


class TilePacker:
    """`firstlight.targets.cpu.kernels.layouts` as a `firstlight.codegen.target.Packer`."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[ArraySpec,
                                                                             ArraySpec | None]:
        """Shapes and dtypes of packed codes and scales."""
        return layouts.packed_shapes(layout, codec, shape)

    def by_rows(self, layout: str) -> bool:
        """Grouped matrices are tiled group by group, which rows do not respect."""
        return layouts.by_rows(layout)

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, Array | None]:
        """A weight, or consecutive rows of one."""
        return layouts.pack(layout, codes, scales, codec, shape, first_row)
