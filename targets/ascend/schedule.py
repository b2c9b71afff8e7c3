"""Which axes of a nest are a tile in on-chip memory, and which are rounds: cut until it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from firstlight.targets.ascend.linear import coefficient, cuts, linear
from firstlight.targets.ascend.nests import Axis, Nest, Part
from firstlight.targets.ascend.nodes import Node, const, make, var, walk

ROWS, RUN = 64, 512
"""Steps of a tile's axis whose extent is known only when the kernel runs: outer, innermost."""


@dataclass(frozen=True)
class Tile:
    """A nest, and which of its axes (the parts' own included) make the tile."""

    nest: Nest
    names: frozenset[str]

    def inside(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Those of the tile."""
        return tuple(a for a in axes if a.name in self.names)

    def outside(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Those that are rounds."""
        return tuple(a for a in axes if a.name not in self.names)


def tiles(nest: Nest, budget: int) -> Iterator[Tile]:
    """Tiles of at most `budget` elements that together are the nest."""
    for piece in _affine(nest, 0):
        yield from _sized(piece, budget)


def _affine(nest: Nest, depth: int) -> Iterator[Nest]:
    """Nests whose quotients of axes have become sums, as far as cutting axes does that."""
    for node in _indices(nest):
        for name, length in cuts(node, nest.extents):
            if depth < 12:
                for piece in cut(nest, name, length):
                    yield from _affine(piece, depth + 1)
                return
    yield nest


def _indices(nest: Nest) -> list[Node]:
    nodes = [nest.value, *(p.term for p in nest.parts)]
    return [nest.index, *(n.args[1] for node in nodes for n in walk(node) if n.op == "load")]


def _sized(nest: Nest, budget: int) -> Iterator[Tile]:
    """Whole axes from the last one on while there is room, then a cut of one more."""
    names: set[str] = set()
    left, open_ = budget, False
    candidates = [a for p in nest.parts for a in reversed(p.axes)] + list(reversed(nest.axes))
    for axis in candidates:
        if not _movable(nest, axis.name):
            continue
        length = axis.length
        if axis.valid is not None:
            open_ = True
        if length is None:
            some = min(left, ROWS if names else RUN)
            if open_ or some < 8:
                continue
            (piece,) = cut(nest, axis.name, some)
            yield from _sized(piece, budget)
            return
        if length <= left:
            names.add(axis.name)
            left //= length
        elif left >= 16 or not names:
            for piece in cut(nest, axis.name, _share(length, max(left, 1))):
                yield from _sized(piece, budget)
            return
        if axis.name not in names:
            break
    yield Tile(nest, frozenset(names))


def _share(extent: int, most: int) -> int:
    """The length of the pieces of an axis: a divisor, unless that would be small."""
    divisor = next(n for n in range(most, 0, -1) if extent % n == 0)
    return divisor if divisor * 4 >= most else most


def _movable(nest: Nest, axis: str) -> bool:
    """Whether all that depends on an axis lies at constant steps along it."""
    if nest.condition is not None and axis in nest.condition.vars:
        return False
    extents = nest.extents
    return all(coefficient(linear(node, extents), axis) is not None for node in _indices(nest))


def cut(nest: Nest, name: str, length: int) -> list[Nest]:
    """An axis as pieces of `length` and what is left over: two nests, or two parts of one."""
    for i, part in enumerate(nest.parts):
        if any(a.name == name for a in part.axes):
            parts = [Part(axes, Nest("", (), nest.buffer, part.term, part.term).renamed(values).value)
                     for axes, values in _pieces(part.axes, name, length)]
            return [replace(nest, parts=(*nest.parts[:i], *parts, *nest.parts[i + 1:]))
                    .simplified()]
    return [replace(nest, axes=axes).renamed(values).simplified()
            for axes, values in _pieces(nest.axes, name, length)]


def _pieces(axes: tuple[Axis, ...], name: str, length: int
            ) -> Iterator[tuple[tuple[Axis, ...], dict[str, Node]]]:
    """(axes, value of the cut one) of each piece."""
    at = next(i for i, a in enumerate(axes) if a.name == name)
    axis, extent = axes[at], axes[at].length
    outer, inner = f"{name}o", f"{name}i"
    place = make("add", "int32", make("mul", "int32", var(outer), const(length)), var(inner))
    if extent is None:
        rounds = make("floordiv", "int32",
                      make("add", "int32", axis.extent, const(length - 1)), const(length))
        start = make("mul", "int32", var(outer), const(length))
        valid = make("min", "int32", const(length), make("sub", "int32", axis.extent, start))
        new = (Axis(outer, rounds), Axis(inner, const(length), valid))
        yield (*axes[:at], *new, *axes[at + 1:]), {name: place}
        return
    assert axis.valid is None or extent == length, "a tile's open axis is not cut again"
    count, rest = divmod(extent, length)
    if count == 1:
        yield (*axes[:at], Axis(inner, const(length)), *axes[at + 1:]), {name: var(inner)}
    elif count:
        new = (Axis(outer, const(count)), Axis(inner, const(length)))
        yield (*axes[:at], *new, *axes[at + 1:]), {name: place}
    if rest:
        tail = f"{name}r"
        place = make("add", "int32", var(tail), const(count * length))
        yield (*axes[:at], *((Axis(tail, const(rest)),) if rest > 1 else ()), *axes[at + 1:]), {
            name: place if rest > 1 else const(count * length)}
