"""Products whose right side each row chooses (experts), as one product for each choice: which nests
they are, and the step that lists the rows of each group first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import coefficient, linear, simplified
from firstlight.codegen.nests.nodes import Node, const, make, rebuild, substitute, var, walk
from firstlight.codegen.nests.program import Axis, Memory, Nest, Step
from firstlight.codegen.nests.schedule import Tile, tiles
from firstlight.targets.cambricon.scalars import Scalars

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

GROUP, ROW, FIRST, COUNT = "group", "row", "first", "count"
"""A group; a row of a block; where the block begins in the group's list; how long that is."""
ROWS, FEWEST = 64, 8
"""Most rows of a block: of a matrix that is fetched for them; and the fewest that are worth it."""
COLUMNS = 16
"""A multiple of them is cut into tiles that are all worth the matrix unit."""
CHUNK = 4096
"""Rows whose groups are looked at together."""


@dataclass(frozen=True)
class Lists:
    """A step: the rows of each group, in their order.

    Attributes:
        key: the group of the row `ROW`.
        rows: how many rows there are.
        groups: how many groups.
        buffer: a list of `rows` places for each group.
        counts: how many of them are taken.
    """

    name: str
    key: Node
    rows: Node
    groups: int
    buffer: Memory
    counts: Memory


@dataclass(frozen=True)
class Grouped:
    """A step: a nest whose axes are a group, a row of a block of its list, and a column.

    Attributes:
        left: the left factor, before its inner axis was cut.
        block: rows of a block.
        tiles: what its pieces are, all of them products.
    """

    nest: Nest
    lists: Lists
    left: Node
    block: int
    tiles: tuple[Tile, ...]

    @property
    def name(self) -> str:
        """The nest's."""
        return self.nest.name

    @property
    def inner(self) -> Axis:
        """The inner axis, before it was cut."""
        return self.nest.parts[0].axes[0]


def arranged(steps: Sequence[Step], memories: Mapping[str, Memory], budget: int,
             room: int) -> Iterator[Step | Lists | Grouped]:
    """Steps with groups instead of rows where that can be, and lists before the first of a kind.

    Args:
        budget: most elements of a tile.
        room: bytes of SRAM.
    """
    known: dict[Node, Lists] = {}
    for step in steps:
        found = _grouped(step, memories, budget, room, known) if isinstance(step, Nest) else None
        if found is None:
            yield step
            continue
        if found.lists not in known.values():
            known[found.lists.key] = found.lists
            yield found.lists
        yield found


def _grouped(nest: Nest, memories: Mapping[str, Memory], budget: int, room: int,
             known: Mapping[Node, Lists]) -> Grouped | None:
    """A nest by groups; None unless each row of its left side chooses a matrix to the right."""
    if (nest.join != "sum" or nest.condition is not None or nest.value.op != "acc"
            or len(nest.parts) != 1 or nest.parts[0].term.op != "mul"):
        return None
    (part,) = nest.parts
    left, right = part.term.args
    loads = [n for n in walk(right) if n.op == "load"]
    keys = {atom for n in loads for atom in linear(n.args[1], {}) if _reads(atom)}
    if len(keys) != 1 or left.op != "load" or left.dtype != "float32" or len(part.axes) != 1:
        return None
    (key,), (inner,) = keys, part.axes
    groups = next(memories[n.args[0]].shape[0].number for n in loads
                  if key in linear(n.args[1], {}))
    *rows, column = nest.axes
    total = const(1)
    for axis in rows:
        total = make("mul", "int32", total, axis.extent)
    own = {column.name, inner.name}
    if (not rows or groups is None or total.number is not None or (column.length or 1) % COLUMNS
            or inner.length is None or key.vars & own or column.name in left.vars
            or coefficient(linear(left.args[1], {}), inner.name) != 1):
        return None
    place = simplified(substitute(key, _places(rows, var(ROW))), {})
    block = ROWS
    while 2 * block * inner.length * 4 > room:
        block //= 2
    if block < FEWEST or not all(coefficient(linear(n.args[1], {}), ROW) == 1
                                 for n in walk(place) if n.op == "load"):
        return None
    lists = known.get(place) or _lists(place, total, groups, len(known))
    listed = _by_group(nest, key, rows, lists, block)
    made = [replace(tile, names=tile.names | {ROW}, rows=ROW)
            for tile in tiles(listed, budget, True, joined=True)]
    if not all(tile.product for tile in made):
        return None
    return Grouped(listed, lists, listed.parts[0].term.args[0], block, tuple(made))


def _reads(node: Node) -> bool:
    return any(n.op == "load" for n in walk(node))


def _places(rows: Sequence[Axis], place: Node) -> dict[str, Node]:
    """The axes of rows by a row's place among all."""
    found = {}
    for axis in reversed(rows[1:]):
        found[axis.name] = make("mod", "int32", place, axis.extent)
        place = make("floordiv", "int32", place, axis.extent)
    return {**found, rows[0].name: place}


def _lists(key: Node, rows: Node, groups: int, number: int) -> Lists:
    buffer = Memory(f"lists{number}", "int32", (const(groups), rows))
    return Lists("rows of each group", key, rows, groups, buffer,
                 Memory(f"counts{number}", "int32", (const(groups),)))


def _by_group(nest: Nest, key: Node, rows: Sequence[Axis], lists: Lists, block: int) -> Nest:
    """The nest over a group, a row of a block of its list, and a column."""
    listed = make("mul", "int32", var(GROUP), lists.rows)
    for step in (FIRST, ROW):
        listed = make("add", "int32", listed, var(step))
    values = _places(rows, Node("load", "int32", lists.buffer.name, listed))

    def change(node: Node) -> Node:
        return substitute(rebuild(node, lambda n: var(GROUP) if n == key else None), values)

    valid = make("min", "int32", const(block), make("sub", "int32", var(COUNT), var(FIRST)))
    axes = (Axis(GROUP, const(lists.groups)), Axis(ROW, const(block), valid), nest.axes[-1])
    return replace(nest.map(change), axes=axes).simplified()


def write_lists(body: Body, step: Lists) -> None:
    """The lists, each made by one task: all rows whose group it is, by `filter`."""
    out, axis = body.out, Axis(ROW, const(CHUNK))
    total = Scalars(out, body.places, {"S": "S"}).text(step.rows)
    order, counts = (body.places[m.name].pointer for m in (step.buffer, step.counts))
    group = out.fresh("e")
    dealt = f"for (int32_t {group} = taskId; {group} < {step.groups}; {group} += taskDim)"
    body.extents = {GROUP: step.groups}
    all_ = body.values(None, (Axis(GROUP, const(step.groups)),), {})
    taken = all_.new("int32", (GROUP,))
    out.call("__bang_write_value", taken.text, step.groups, 0)
    first = out.fresh("c")
    with out.braces(f"for (int32_t {first} = 0; {first} < {total}; {first} += {CHUNK})"):
        size = out.scalar("int32", f"fl_min({CHUNK}, {total} - {first})")
        body.extents = {ROW: size}
        place = make("add", "int32", var(FIRST), var(ROW))
        keys, rows = (body.values(None, (axis,), {"S": "S", FIRST: first}).root(
            make("cast", "float32", n)) for n in (substitute(step.key, {ROW: place}), place))
        values = body.values(None, (axis,), {})
        mask, some, listed = (values.new(t, (ROW,)) for t in ("float32", "float32", "int32"))
        with out.braces(dealt):
            out.call("__bang_eq_scalar", mask.text, keys.text, f"(float){group}", size)
            found = out.scalar("int32", f"__bang_filter({some.text}, {rows.text}, {mask.text}, "
                                        f"{size})")
            with out.braces(f"if ({found} > 0)"):
                out.call("__bang_float2int32_tz", listed.text, some.text, found, 0)
                out.call("__memcpy", f"{order} + {group} * ({total}) + {taken.text}[{group}]",
                         listed.text, f"4 * {found}", "NRAM2GDRAM")
                out.line(f"{taken.text}[{group}] += {found};")
        for held in (keys, rows, mask, some, listed):
            values.give(held)
    with out.braces(dealt):
        out.call("__memcpy", f"{counts} + {group}", f"{taken.text} + {group}", 4, "NRAM2GDRAM")
    all_.give(taken)
