"""What rows of the table get: values, among them weights in whatever form they are stored."""

from __future__ import annotations

from dataclasses import dataclass

from firstlight.codegen.onnx.graph import Graph, extents
from firstlight.ir.dims import Size
from firstlight.ir.types import StateType, Type


@dataclass(frozen=True)
class Val:
    """A value by its name in the graph, and its IR type.

    A weight answers the questions below in its own way: it may be stored transposed, or be read
    in part before it is decoded.
    """

    name: str
    type: Type

    @property
    def shape(self) -> tuple[Size, ...]:
        """Its axes; of a state [1, rows, width]."""
        return extents(self.type)

    @property
    def dtype(self) -> str:
        """Element type; states are f32."""
        return "f32" if isinstance(self.type, StateType) else self.type.dtype

    @property
    def state(self) -> StateType:
        """The type of a state."""
        assert isinstance(self.type, StateType)
        return self.type

    def plain(self, g: Graph) -> str:
        """The logical array."""
        return self.name

    def rows(self, g: Graph, index: str, axes: int) -> str:
        """Those of the first axis at `index`, which has so many axes."""
        return str(g("Gather", self.plain(g), index, axis=0))

    def swapped(self, g: Graph, groups: int = 0) -> str:
        """[..., N, K] as [..., K, N]; with `groups`, [G * N, K] as [G, K, N]."""
        name, rank = self.plain(g), len(self.shape)
        if groups:
            rows, columns = self.shape
            assert isinstance(rows, int)
            assert isinstance(columns, int)
            name, rank = g("Reshape", name, [groups, rows // groups, columns]), 3
        return str(g("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2]))

    def picked(self, g: Graph, index: str, axes: int) -> str:
        """Matrices [K, N] of a weight [E, N, K], those at `index`, which has so many axes."""
        name = self.rows(g, index, axes)
        return str(g("Transpose", name, perm=[*range(axes), axes + 1, axes]))
