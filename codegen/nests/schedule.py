"""Which axes of a nest are a tile in on-chip memory, and which are rounds: cut until it fits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from firstlight.codegen.nests.linear import coefficient, cuts, linear
from firstlight.codegen.nests.nodes import Node, const, make, substitute, var, walk
from firstlight.codegen.nests.program import Axis, Nest

ROWS, RUN = 64, 512
"""Steps of a tile's axis whose extent is known only when the kernel runs: outer, innermost."""
SIDE = 64
"""Most rows and columns of a product's tile: the accumulator and one operand stay on the chip."""
LEAST = 16
"""Products with fewer columns, or a shorter inner axis, are not worth a cube core's fixed tiles."""


@dataclass(frozen=True)
class Tile:
    """A nest, and which of its axes (the parts' own included) make the tile.

    `rows` and `columns` of a product: at most one axis each, "" for one row.
    """

    nest: Nest
    names: frozenset[str]
    product: bool = False
    rows: str = ""
    columns: str = ""

    def inside(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Those of the tile."""
        return tuple(a for a in axes if a.name in self.names)

    def outside(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Those that are rounds."""
        return tuple(a for a in axes if a.name not in self.names)


DEPTH = 8
"""A product's inner axis is a multiple of it: 32 bytes, the cube core's own unit."""


def tiles(nest: Nest, budget: int, cube: bool, joined: bool = False) -> Iterator[Tile]:
    """Tiles of at most `budget` elements that together are the nest.

    Args:
        cube: products may be.
        joined: several inner axes of a product may be one row of its operands.
    """
    for piece in _affine(nest, 0):
        yield from _sized(piece, budget, cube, joined)


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


def _sized(nest: Nest, budget: int, cube: bool, joined: bool) -> Iterator[Tile]:
    """The tile of a nest, or of the pieces that it has to be cut into first."""
    names: set[str] = set()
    sides = factors(nest) if cube else None
    pieces: list[Nest] | None = None
    if sides is not None:
        for part in nest.parts:
            pieces = pieces or _fitted(nest, part.axes, 2 * budget // SIDE, names,
                                       2 if joined else LEAST)
        # several inner axes have to be one row in memory, which padding may forbid
        inner = [[a.length or 0 for a in p.axes if a.name in names] for p in nest.parts]
        if pieces is None and any((len(i) > 1 and not joined) or not i or math.prod(i) % DEPTH
                                  for i in inner):
            sides = None
    if sides is not None:
        rows, columns = sides
        taken: list[str] = []
        for axes in (rows, columns):
            before = set(names)
            pieces = pieces or _fitted(nest, axes[-1:], SIDE, names)
            taken.append(next(iter(names - before), ""))
        if pieces is None and taken[1]:
            yield Tile(nest, frozenset(names), True, *taken)
            return
    if pieces is None:
        names = set()
        order = [*nest.axes, *(a for p in nest.parts for a in p.axes)]
        pieces = _fitted(nest, tuple(order), budget, names)
    if pieces is None:
        yield Tile(nest, frozenset(names))
    for piece in pieces or ():
        yield from _sized(piece, budget, cube, joined)


def _fitted(nest: Nest, axes: Sequence[Axis], room: int, names: set[str],
            least: int = LEAST) -> list[Nest] | None:
    """Put axes into a tile, from the last one on, while there is room; or cut the one that would
    fit in part (in pieces of `least` or more), and return the pieces."""
    left = room
    for axis in reversed(axes):
        if not _movable(nest, axis.name):
            continue
        length = axis.length
        if length is None:
            some = min(left, ROWS if names else RUN)
            if some >= 8:
                return cut(nest, axis.name, some)
            continue
        if length <= left:
            names.add(axis.name)
            left //= length
        elif (left >= least or left == room) and (share := _share(length, left)) > 1:
            return cut(nest, axis.name, share)
        else:
            break
    return None


def factors(nest: Nest) -> tuple[tuple[Axis, ...], tuple[Axis, ...]] | None:
    """(axes of the rows, axes of the columns) of a sum of products; None for any other nest."""
    if nest.join != "sum" or any(p.term.op != "mul" or p.term.dtype != "float32"
                                 for p in nest.parts):
        return None
    own = {a.name for a in nest.axes}
    left = frozenset[str]().union(*(p.term.args[0].vars & own for p in nest.parts))
    right = frozenset[str]().union(*(p.term.args[1].vars & own for p in nest.parts))
    rows = tuple(a for a in nest.axes if a.name in left - right)
    columns = tuple(a for a in nest.axes if a.name in right - left and _movable(nest, a.name))
    inner = [math.prod(a.length or LEAST for a in p.axes) for p in nest.parts]
    wide = bool(columns) and (columns[-1].length or LEAST) >= LEAST
    return (rows, columns) if wide and max(inner) >= LEAST else None


def _share(extent: int, most: int) -> int:
    """The length of the pieces of an axis: a divisor, unless that would be small."""
    divisor = next(n for n in range(most, 0, -1) if extent % n == 0)
    return divisor if divisor * 4 >= most else most


def _movable(nest: Nest, axis: str) -> bool:
    """Whether all that depends on an axis lies at constant steps along it."""
    if nest.condition is not None and axis in nest.condition.vars:
        return False
    axes = [*nest.axes, *(a for p in nest.parts for a in p.axes)]
    if any(a.valid is not None and axis in a.valid.vars for a in axes):
        return False
    extents = nest.extents
    return all(coefficient(linear(node, extents), axis) is not None for node in _indices(nest))


def cut(nest: Nest, name: str, length: int) -> list[Nest]:
    """An axis as pieces of `length` and what is left over: two nests, or two parts of one."""
    for i, part in enumerate(nest.parts):
        if any(a.name == name for a in part.axes):
            parts = [replace(part, axes=axes, term=substitute(part.term, values))
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
