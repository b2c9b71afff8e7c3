"""Tiles between global memory and NRAM: which bytes, in which rows, by which copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firstlight.codegen.nests.linear import Linear, linear
from firstlight.codegen.nests.nodes import Node, var
from firstlight.targets.cambricon.scalars import Place, Scalars
from firstlight.targets.cambricon.text import WIDTHS, Size, atom, times
from firstlight.targets.cambricon.tiles import Tiles, Value


@dataclass
class Transfers(Tiles):
    """Writes copies.

    Attributes:
        fetched: loads that are in NRAM already, as they lie in memory.
    """

    places: Mapping[str, Place]
    scalars: Scalars
    fetched: Mapping[Node, Value] = field(default_factory=dict)

    @property
    def extents(self) -> dict[str, int]:
        """Of the tile's axes, for resolving quotients in indices."""
        return {a.name: a.length for a in self.axes if a.length is not None}

    def raw(self, node: Node) -> Value:
        """A load as it lies in memory."""
        if node in self.fetched:
            return self.fetched[node]
        element, axes = self.layout(node)
        to = self.new(element, axes, raw=True)
        self.fetch(node, to.text, "__memcpy")
        return Value(to.text, node.dtype, axes, to.held)

    def layout(self, node: Node) -> tuple[str, tuple[str, ...]]:
        """(element type, axes) of a load's tile."""
        place = self.places[str(node.args[0])]
        _, steps = self.steps_of(linear(node.args[1], self.extents))
        axes = tuple(a.name for a in self.axes if a.name in steps)
        return "int32" if node.dtype == "int64" else place.memory.dtype, axes

    def fetch(self, node: Node, to: str, word: str, direction: str = "GDRAM2NRAM") -> None:
        """Copy what a load reads to a tile."""
        place = self.places[str(node.args[0])]
        start, steps = self.start(linear(node.args[1], self.extents), place)
        dims = [(self.sizes[a.name], steps[a.name]) for a in self.axes if a.name in steps]
        self.copy(place, start, dims, to, word, direction)

    def widened(self, x: Value) -> Value:
        """Bytes and shorts as int32."""
        if x.dtype == "uint8":
            to = self.new("int32", x.axes)
            self.out.call("__bang_uchar2int32", to.text, x.text, self.count(x.axes), 0)
        elif x.dtype == "uint16":
            raise self.out.refuse("sixteen bits that are not the upper half of a float")
        else:
            return x
        self.give(x)
        return Value(to.text, x.dtype, to.axes, to.held)

    def convert(self, word: str, dtype: str, x: Value, kind: str) -> Value:
        """A widening conversion; x's place is given back if this is its only use."""
        to = self.do(word, dtype, x.axes, f"({kind} *){x.text}")
        if x.dtype == "uint16":
            self.give(x)
        return to

    def start(self, total: Linear, place: Place) -> tuple[str, dict[str, int]]:
        """(where the tile's first element lies, step by axis of the tile)."""
        rest, steps = self.steps_of(total)
        return self.scalars.index(rest, place), steps

    def steps_of(self, total: Linear) -> tuple[Linear, dict[str, int]]:
        """(what is the same in the whole tile, step by axis of the tile)."""
        names = {a.name for a in self.axes}
        steps = {n: total[var(n)] for n in names if var(n) in total}
        rest = {atom_: c for atom_, c in total.items()
                if not (atom_.op == "var" and atom_.args[0] in steps)}
        if any(atom_.vars & names for atom_ in rest):
            raise self.out.refuse("an index that is no sum of axes")
        return rest, steps

    def copy(self, place: Place, start: str, dims: list[tuple[Size, int]], tile: str,
             word: str, direction: str) -> None:
        """Elements between global memory and a dense tile, segment by segment."""
        wide = WIDTHS[place.memory.dtype]
        narrow = 4 if place.memory.dtype == "int64" else wide
        dims = [d for d in dims if d[0] != 1]
        runs: list[tuple[Size, int]] = []
        for size, step in reversed(dims):
            if runs and isinstance(runs[0][0], int) and step == runs[0][0] * runs[0][1]:
                runs[0] = (times(size, runs[0][0]), runs[0][1])
            else:
                runs.insert(0, (size, step))
        run: Size = 1
        if runs and runs[-1][1] == 1 and narrow == wide:
            run = runs.pop()[0]
        far, near, names = start, "0", []
        dense = run
        segments = runs[-1] if runs and runs[-1][1] > 0 else None
        outer = runs[:-1] if segments else runs
        if segments:
            dense = times(segments[0], run)
        for size, step in reversed(outer):
            name = self.out.fresh("i")
            names.append((name, size))
            far += f" + {name} * {step}" if step >= 0 else f" - {name} * {-step}"
            near += f" + {name} * {atom(dense)}"
            dense = times(size, dense)
        with_ = self._copy_call(place, far, near.removeprefix("0 + "), run, segments, tile,
                                direction)
        self._loops(names[::-1], word, with_)

    def _copy_call(self, place: Place, far: str, near: str, run: Size,
                   segments: tuple[Size, int] | None, tile: str, direction: str) -> list[Size]:
        wide = WIDTHS[place.memory.dtype]
        narrow = 4 if place.memory.dtype == "int64" else wide
        gdram = place.pointer if far == "0" else f"{place.pointer} + {far}"
        nram = tile if near == "0" else f"{tile} + {near}"
        size = times(narrow, run)
        fetch = direction.startswith("GDRAM")
        call: list[Size] = [*((nram, gdram) if fetch else (gdram, nram)), size, direction]
        if segments:
            count, step = segments
            strides: list[Size] = [size, wide * step]
            less: Size = count - 1 if isinstance(count, int) else f"{atom(count)} - 1"
            call += [*(strides if fetch else strides[::-1]), less]
        return call

    def _loops(self, names: list[tuple[str, Size]], word: str, call: list[Size]) -> None:
        if not names:
            self.out.call(word, *call)
            return
        (name, size), *rest = names
        with self.out.braces(f"for (int32_t {name} = 0; {name} < {size}; ++{name})"):
            self._loops(rest, word, call)
