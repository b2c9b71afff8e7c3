"""Products by groups: a cluster takes a group, its memory core brings a block of the group's rows
to SRAM, and four cores multiply them, each with columns of its own. So a matrix is fetched once for
all rows of a block, and a row once for all columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import ONE, joined, linear
from firstlight.codegen.nests.nodes import Node
from firstlight.codegen.nests.program import Axis
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.cambricon import products
from firstlight.targets.cambricon.groups import COUNT, FIRST, GROUP, ROW, Grouped
from firstlight.targets.cambricon.scalars import Scalars
from firstlight.targets.cambricon.shared import CORES
from firstlight.targets.cambricon.text import times
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

At = dict[str, str]


@dataclass(frozen=True)
class ByGroup:
    """Writes one step."""

    body: Body
    step: Grouped

    def write(self) -> None:
        """The cores' blocks, and those of the memory core."""
        with self.body.memory_core():
            self.blocks(self.bring)
        self.blocks(self.compute)
        self.body.out.sram = max(self.body.out.sram, 2 * self.size)

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return self.step.block * (self.step.inner.length or 1) * 4

    def blocks(self, work: Callable[[At, str], None]) -> None:
        """A cluster's groups, each in blocks: two places in SRAM take turns."""
        body, out = self.body, self.body.out
        bank, group, first = out.fresh("bank"), out.fresh("e"), out.fresh("f")
        counts, groups = body.places[self.step.lists.counts.name], self.step.lists.groups
        out.line("__sync_all();")       # the lists are there, and what the rows are
        out.line(f"int32_t {bank} = 0;")
        with out.braces(f"for (int32_t {group} = clusterId; {group} < {groups}; "
                        f"{group} += clusterDim)"):
            count = out.scalar("int32", f"{counts.pointer}[{group}]")
            with out.braces(f"for (int32_t {first} = 0; {first} < {count}; "
                            f"{first} += {self.step.block})"):
                at = {"S": "S", GROUP: group, FIRST: first, COUNT: count}
                body.extents = body.sizes((self.step.nest.axes[1],), at)
                work(at, f"(float *)({out.where}_sram + {bank} * {self.size})")
                out.line(f"{bank} = 1 - {bank};")

    def bring(self, at: At, sram: str) -> None:
        """The memory core's part: the rows of a block, while the cores multiply the one before."""
        body, out, inner = self.body, self.body.out, self.step.inner
        row, rows = out.fresh("r"), body.extents[ROW]
        with out.braces(f"for (int32_t {row} = 0; {row} < {rows}; ++{row})"):
            body.extents = body.sizes((inner,), at)
            values = body.values(self.step.nest, (inner,), {**at, ROW: row})
            values.fetch(self.step.left, f"{sram} + {row} * {inner.length}", "__memcpy_async",
                         "GDRAM2SRAM")
        out.line("__sync_io();")
        out.line("__sync_cluster();")

    def compute(self, at: At, sram: str) -> None:
        """A core's part: every fourth tile of columns."""
        body, out = self.body, self.body.out
        out.line("__sync_cluster();")
        rows = body.extents[ROW]
        for tile in self.step.tiles:
            nest, column = tile.nest, out.fresh("c")
            deal = body.deal([a for a in tile.outside(nest.axes) if a.name != GROUP])
            with out.braces(f"for (int32_t {column} = coreId; {column} < {deal.total}; "
                            f"{column} += {CORES})"):
                here = {**at, **deal.at(column)}
                (columns,) = (a for a in tile.inside(nest.axes) if a.name != ROW)
                body.extents = {ROW: rows, **body.sizes((columns,), here)}
                total = _Product(body, tile, here, self.step, sram).total()
                self.scatter(tile, columns, here, total)

    def scatter(self, tile: Tile, columns: Axis, at: At, total: Value) -> None:
        """Each row of a result to its place."""
        body, out, nest = self.body, self.body.out, tile.nest
        place, size = body.places[nest.buffer.name], body.extents[columns.name]
        row, rows = out.fresh("r"), body.extents[ROW]
        out.line("__sync_compute();")
        with out.braces(f"for (int32_t {row} = 0; {row} < {rows}; ++{row})"):
            values = body.values(nest, (columns,), {**at, ROW: row})
            start, steps = values.start(linear(nest.index, values.extents), place)
            values.copy(place, start, [(size, steps[columns.name])],
                        f"{total.text} + {row} * {size}", "__memcpy_async", "NRAM2GDRAM")
        out.line("__sync_io();")
        body.values(nest, (columns,), at).give(total)


class _Product(products.Product):
    """A tile's product whose rows are in SRAM."""

    def __init__(self, body: Body, tile: Tile, at: At, step: Grouped, sram: str) -> None:
        super().__init__(body, tile, at)
        self.step, self.sram = step, sram

    def part(self, inner: tuple[Axis, ...], term: Node) -> products.Part:
        return _Part(self, inner, term)

    def fetched(self, load: Node, inner: tuple[Axis, ...], at: At) -> Value:
        """The rows of a step of the inner axis, from SRAM."""
        body, out = self.body, self.out
        assert self.rows is not None
        if len(self.tile.nest.parts) > 1:
            out.line("__sync_compute();")       # the part before may have been no loop
        rows, run = body.extents[ROW], times(*(body.extents[a.name] for a in inner))
        left = self.values((self.rows, *inner)).new("float32", (ROW, *(a.name for a in inner)))
        out.call("__memcpy_async", left.text, f"{self.sram} + {self.offset(load, inner, at)}",
                 times(4, run), "SRAM2NRAM", times(4, run), 4 * (self.step.inner.length or 1),
                 f"{rows} - 1")
        out.line("__sync_move();")
        return left

    def offset(self, load: Node, inner: tuple[Axis, ...], at: At) -> str:
        """Where a step of the inner axis begins within a row."""
        index, names = linear(load.args[1], {}), {ROW, *(a.name for a in inner)}
        before = {atom: c for atom, c in index.items() if not atom.vars & names and atom != ONE}
        begin = index.get(ONE, 0) - linear(self.step.left.args[1], {}).get(ONE, 0)
        return Scalars(self.out, self.body.places, at).text(
            joined(before | ({ONE: begin} if begin else {})))


@dataclass(frozen=True)
class _Part(products.Part):
    """Terms whose left side is in SRAM; the right one is fetched a step ahead."""

    product: _Product

    def sites(self) -> list[tuple[Node, tuple[Axis, ...]]]:
        """See `products.Part.sites`."""
        return super().sites()[1:]

    def add(self, at: At, total: Value, fetched: Sequence[Mapping[Node, Value]]) -> None:
        """See `products.Part.add`."""
        load = self.term.args[0]
        left = self.product.fetched(load, self.inner, at)
        super().add(at, total, [{load: left}, *fetched])
        self.product.values(()).give(left)
