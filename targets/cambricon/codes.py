"""Bytes that stand for numbers (FP8, FP4, int4, scales), decoded by `__bang_lut`: a kernel makes
its tables once, at its start, with the instructions that decoding would take everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firstlight.codegen.nests.nodes import Node, const, rebuild, substitute, var
from firstlight.codegen.nests.program import Axis
from firstlight.targets.cambricon.text import ALIGN, Nram, Room, atom, times
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body
    from firstlight.targets.cambricon.values import Values

CODES = 256
"""Values of a byte; a table of `__bang_lut` has a multiple of 64 entries."""
PARTS = 4
"""Most places of a byte that mean something of their own, such as the nibbles of FP4."""
WEIGHTS = {"select": 4, "lt": 2, "le": 2, "gt": 2, "ge": 2, "eq": 2, "ne": 2, "reinterpret": 0}
"""Instructions of an operation, where it is not one."""
WORTH = 6
"""Instructions from which on a table takes their place."""
CODE = "code"


@dataclass(frozen=True)
class Meaning:
    """What a code means, as a node of the variable `CODE` and the places within a byte."""

    node: Node
    places: tuple[tuple[str, int], ...]


def coded(node: Node, extents: Mapping[str, int],
          leaves: dict[Node, frozenset[Node]]) -> Node | None:
    """A node that depends on one byte of memory, and its place in it: as a table's entry.

    Args:
        extents: steps of the tile's axes that have a fixed number.
        leaves: what is known of nodes already.
    """
    if node.dtype not in ("float32", "int32") or node.op in ("load", "var", "const"):
        return None
    found = _leaves(node, leaves)
    bytes_ = [n for n in found if n.op == "load"]
    names = sorted(str(n.args[0]) for n in found if n.op == "var")
    if len(bytes_) != 1 or bytes_[0].dtype != "uint8" or any(n.op == "acc" for n in found):
        return None
    load, count = bytes_[0], 1
    for name in names:
        if name not in extents or name in load.vars:
            return None
        count *= extents[name]
    if len(names) > 1 or count > PARTS or _weight(node) < WORTH:
        return None
    inside = rebuild(node, lambda n: var(CODE) if n == load else None)
    meaning = Meaning(inside, tuple((name, extents[name]) for name in names))
    return Node("lut", node.dtype, load, *map(var, names), meaning)


def _leaves(node: Node, known: dict[Node, frozenset[Node]]) -> frozenset[Node]:
    if node not in known:
        own = [node] if node.op in ("load", "var", "acc") else []
        parts = () if node.op == "load" else node.parts()
        known[node] = frozenset(own).union(*(_leaves(n, known) for n in parts))
    return known[node]


def _weight(node: Node) -> int:
    seen: set[Node] = set()

    def count(n: Node) -> int:
        if n in seen or n.op in ("load", "var", "const"):
            return 0
        seen.add(n)
        return WEIGHTS.get(n.op, 1) + sum(map(count, n.parts()))

    return count(node)


@dataclass
class Tables:
    """The tables of a kernel, in an array of their own."""

    where: str
    rooms: dict[Node, Room] = field(default_factory=dict)
    nram: Nram = field(default_factory=Nram)

    def place(self, entry: Node) -> str:
        """The table of a node of `CODE` alone."""
        if entry not in self.rooms:
            self.rooms[entry] = self.nram.take(CODES * 4)
        return f"(int32_t *)({self.where}_tables + {self.rooms[entry].offset})"

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return -(-self.nram.most // ALIGN) * ALIGN


def decoded(values: Values, node: Node, tables: Tables) -> Value:
    """A tile of what codes mean."""
    load, *_, meaning = node.args
    assert isinstance(meaning, Meaning)
    code, out = values.value(load), values.out
    count = values.count(code.axes)

    def lut(to: str, entry: Node) -> None:
        out.call("__bang_lut", f"(int32_t *){to}", f"(uint32_t *){code.text}", tables.place(entry),
                 count, CODES)

    if not meaning.places:
        to = values.new(node.dtype, code.axes)
        lut(atom(to.text), meaning.node)
        return to
    ((axis, steps),) = meaning.places
    planes = values.new(node.dtype, (axis, *code.axes))
    for step in range(steps):
        entry = substitute(meaning.node, {axis: const(step)})
        lut(atom(f"{planes.text} + {step} * {atom(count)}") if step else planes.text, entry)
    axes = values.joint(planes)
    at = axes.index(axis)
    inner, outer = values.count(axes[at + 1:]), values.count(axes[:at])
    if not at or steps == 1:
        return Value(planes.text, node.dtype, axes, planes.held)
    if at == len(axes) - 1:
        return values.turned(planes, steps, count, axes)
    to = values.new(node.dtype, axes)
    for step in range(steps):
        values.rows(f"{to.text} + {step} * {atom(inner)}", times(steps, inner),
                    f"{planes.text} + {step} * {atom(count)}", inner, inner, outer)
    values.give(planes)
    return to


def fill(body: Body) -> None:
    """Write what makes the tables of a kernel's body: to be put before it."""
    axis = Axis(CODE, const(CODES))
    body.extents = {CODE: CODES}
    if body.tables.rooms:
        body.out.line("// what codes mean")
    for entry in body.tables.rooms:
        values = body.values(None, (axis,), {})
        got = values.root(entry)
        full = values.spread(got, (CODE,))
        values.give(got)
        body.out.call("__bang_move", body.tables.place(entry), full.text, CODES * 4)
        values.give(full)
    if body.tables.rooms:
        body.out.line("__sync_compute();")      # the first fetch may go where they were made
