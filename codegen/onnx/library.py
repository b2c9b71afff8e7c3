"""The weights of a model: which are wanted, in which layout and form, by any of its graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from firstlight.codegen.onnx.elementwise import F32
from firstlight.codegen.onnx.forms import CHOICES, FORMS, Form, block_of, decode
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.values import Val
from firstlight.ir.types import TensorType


@dataclass(frozen=True)
class Wanted:
    """A weight as some graph reads it.

    Attributes:
        swapped: whether its last two axes are, so that a product reads it as it lies.
        groups: number of row blocks that are matrices of their own.
    """

    weight: str
    type: TensorType
    swapped: bool
    groups: int
    form: str

    @property
    def name(self) -> str:
        """Of its tensor in the graphs and in the data file."""
        table = ".table" if FORMS[self.form].table is not None else ""
        return f"{self.weight}{'.T' if self.swapped else ''}{table}"

    @property
    def shape(self) -> tuple[int, ...]:
        """As the graph sees it, decoded."""
        shape = _numbers(self.type)
        if not self.swapped:
            return shape
        *lead, rows, columns = shape
        if self.groups:
            lead, rows = [self.groups], rows // self.groups
        return (*lead, columns, rows)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is stored."""
        form, shape = FORMS[self.form], self.shape
        codes = Part(self.name, form.kind, form.dtype, shape, form.dense)
        if form.table is not None and form.dense == 2:       # the graph sees the bytes
            codes = Part(self.name, form.kind, form.dtype, (*shape[:-1], shape[-1] // 2), 1)
        if not form.scaled:
            return (codes,)
        grid, axis = list(shape), -2 if self.swapped else -1
        grid[axis] = -(-grid[axis] // block_of(self.type.codec))
        return codes, Part(f"{self.name}.scales", F32, "F32", tuple(grid), 1)


@dataclass(frozen=True)
class Part:
    """One tensor: ONNX element type and shape, the data file's dtype, elements to a byte of it."""

    name: str
    kind: int
    dtype: str
    shape: tuple[int, ...]
    dense: int

    @property
    def stored(self) -> tuple[int, ...]:
        """Its shape in the data file."""
        return self.shape if self.dense == 1 else (math.prod(self.shape) // self.dense,)


@dataclass
class Library:
    """Collects the wanted weights of all graphs; `choice` is the option `weights`."""

    choice: str = "float32"
    wanted: dict[str, Wanted] = field(default_factory=dict)
    used: dict[int, dict[str, Part]] = field(default_factory=dict)

    def want(self, g: Graph, weight: str, type_: TensorType, swapped: bool, groups: int,
             picked: bool) -> tuple[Wanted, Form, tuple[str, ...]]:
        """A weight, its form, and the names of its parts in a graph."""
        shape = _numbers(type_)
        last = (shape[-2] // (groups or 1) if swapped else shape[-1]) if shape else 1
        form = CHOICES[self.choice](type_.codec, picked, last % 2 == 0)
        item = Wanted(weight, type_, swapped, groups, form)
        known = self.wanted.setdefault(item.name, item)
        assert known == item, f"{weight} is wanted in two ways under one name"
        while g.outer is not None:
            g = g.outer
        parts = self.used.setdefault(id(g), {})
        parts.update({part.name: part for part in item.parts})
        return item, FORMS[form], tuple(part.name for part in item.parts)

    def of(self, g: Graph) -> Mapping[str, Part]:
        """The parts that a graph reads, by name."""
        return self.used.get(id(g), {})


@dataclass(frozen=True)
class Parameter(Val):
    """A weight that lies in the data file; asking for it is what puts it there."""

    library: Library = field(default_factory=Library)

    def plain(self, g: Graph) -> str:
        """The logical array."""
        return self._whole(g, False, 0)

    def swapped(self, g: Graph, groups: int = 0) -> str:
        """Stored the way it is read."""
        return self._whole(g, True, groups)

    def rows(self, g: Graph, index: str, axes: int) -> str:
        """Picked, then decoded."""
        return self._picked(g, index, axes, False)

    def picked(self, g: Graph, index: str, axes: int) -> str:
        """Picked, then decoded."""
        return self._picked(g, index, axes, True)

    def _whole(self, g: Graph, swapped: bool, groups: int) -> str:
        assert isinstance(self.type, TensorType)
        item, form, names = self.library.want(g, self.name, self.type, swapped, groups, False)
        rank, axis = len(item.shape), -2 if swapped else -1
        inner = item.shape[axis] if rank else 1
        return decode(g, form, names, self.type.codec, axis, rank, inner)

    def _picked(self, g: Graph, index: str, axes: int, swapped: bool) -> str:
        assert isinstance(self.type, TensorType)
        item, form, names = self.library.want(g, self.name, self.type, swapped, 0, True)
        assert form.picks
        names = tuple(g("Gather", name, index, axis=0) for name in names)
        rank, axis = len(item.shape) - 1 + axes, -2 if swapped else -1
        return decode(g, form, names, self.type.codec, axis, rank, item.shape[axis])


def _numbers(type_: TensorType) -> tuple[int, ...]:
    return tuple(d for d in type_.shape if isinstance(d, int))
