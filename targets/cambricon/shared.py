"""Products whose left side a cluster fetches once: its memory core brings tile after tile to SRAM,
from where four cores take it, each for columns of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstlight.codegen.nests.nodes import Node, const
from firstlight.codegen.nests.program import Axis, Part
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.cambricon import products
from firstlight.targets.cambricon.ahead import Ahead, Deal
from firstlight.targets.cambricon.scalars import Scalars
from firstlight.targets.cambricon.text import WIDTHS, times
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

CORES = 4
"""Of a cluster."""
GROUP = "group"
"""An axis: rounds of four tiles of columns."""


def shared_axis(tile: Tile) -> Axis | None:
    """The rounds of columns of a product whose left side does not depend on them.

    None where a cluster would save next to nothing (one row, or fewer rounds than it has cores), or
    where the left side is more than what lies in memory.
    """
    nest, lefts = tile.nest, [p.term.args[0] for p in tile.nest.parts]
    if not tile.rows or nest.condition is not None or any(
            left.op != "load" or left.dtype != "float32" or left.args[0] == nest.buffer.name
            for left in lefts) or any(len(tile.outside(p.axes)) > 1 for p in nest.parts):
        return None
    free = [a for a in tile.outside(nest.axes) if not any(a.name in left.vars for left in lefts)]
    return next((a for a in reversed(free) if (a.length or 0) >= CORES), None)


@dataclass
class Shared:
    """One tile of a nest; `axis` are its rounds of columns."""

    body: Body
    tile: Tile
    axis: Axis

    def write(self) -> None:
        """The cores' rounds, and those of the memory core. All meet first: what is fetched may have
        been written just now."""
        body, nest = self.body, self.tile.nest
        others = tuple(a for a in self.tile.outside(nest.axes) if a != self.axis)
        assert self.axis.length is not None
        axes = (*others, Axis(GROUP, const(-(-self.axis.length // CORES))))
        with body.memory_core():
            self.rounds(body.deal(axes), self.bring)
        self.rounds(body.deal(axes), self.compute)

    def rounds(self, deal: Deal, work: object) -> None:
        """A cluster's rounds: so many for all of its cores."""
        out = self.body.out
        assert callable(work)
        bank, name = out.fresh("bank"), out.fresh("r")
        out.line("__sync_all();")
        out.line(f"int32_t {bank} = 0;")
        with out.braces(f"for (int32_t {name} = clusterId; {name} < {deal.total}; "
                        f"{name} += clusterDim)"):
            work(deal.at(name), bank)

    def sram(self, bank: str) -> str:
        """Where a step's left side lies."""
        return f"(float *)({self.body.out.where}_sram + {bank} * {self.size})"

    @property
    def size(self) -> int:
        """Bytes of a left side."""
        most = 0
        for part in self.tile.nest.parts:
            count = WIDTHS["float32"]
            for axis in self.left(part)[1]:
                count *= axis.length or 1
            most = max(most, -(-count // 64) * 64)
        return most

    def left(self, part: Part) -> tuple[Node, tuple[Axis, ...]]:
        """What is shared, and over which axes."""
        rows = [a for a in self.tile.nest.axes if a.name == self.tile.rows]
        return part.term.args[0], (*rows, *self.tile.inside(part.axes))

    def step(self, part: Part) -> tuple[Axis | None, str]:
        """(the loop over a part's steps, how many there are)."""
        loops = self.tile.outside(part.axes)
        if not loops:
            return None, "1"
        return loops[0], Scalars(self.body.out, self.body.places, {"S": "S"}).text(loops[0].extent)

    def bring(self, at: dict[str, str], bank: str) -> None:
        """The memory core's part: a step ahead of the cores, in the other bank."""
        body, out, nest = self.body, self.body.out, self.tile.nest
        at = {name: text for name, text in at.items() if name != GROUP}
        inside = self.tile.inside(nest.axes)
        for part in nest.parts:
            axis, size = self.step(part)
            name = out.fresh("k")
            load, axes = self.left(part)
            with out.braces(f"for (int32_t {name} = 0; {name} < {size}; ++{name})"):
                here = {**at, axis.name: name} if axis else at
                mine = tuple(a for a in (*inside, *self.tile.inside(part.axes)) if a in axes)
                body.extents = body.sizes(mine, here)
                values = body.values(nest, axes, here)
                values.fetch(load, self.sram(bank), "__memcpy", "GDRAM2SRAM")
                out.line("__sync_cluster();")
                out.line(f"{bank} = 1 - {bank};")
        out.sram = max(out.sram, 2 * self.size)

    def compute(self, at: dict[str, str], bank: str) -> None:
        """A core's part: its columns, if there are that many."""
        body, out, tile = self.body, self.body.out, self.tile
        assert self.axis.length is not None
        column = out.scalar("int32", f"{at.pop(GROUP)} * {CORES} + coreId")
        works = out.fresh("works")
        out.line(f"const bool {works} = {column} < {self.axis.length};")
        at[self.axis.name] = column
        axes = tile.inside(tile.nest.axes)
        body.extents = body.sizes(axes, at)
        product = products.Product(body, tile, at)
        names = tuple(a.name for a in axes if a.name in (tile.rows, tile.columns))
        values = body.values(tile.nest, axes, at)
        total = values.new("float32", names)
        with out.braces(f"if ({works})"):
            out.call("__bang_write_value", total.text, values.count(names), "0.0f")
        for part in tile.nest.parts:
            self.part(part, product, at, bank, works, total)
        with out.braces(f"if ({works})"):
            body.finish(tile, axes, at, total)

    def part(self, part: Part, product: products.Product, at: dict[str, str], bank: str,
             works: str, total: Value) -> None:
        """The terms of a part joined to the total; the right side is fetched a step ahead."""
        body, out, nest = self.body, self.body.out, self.tile.nest
        inner = self.tile.inside(part.axes)
        joins = products.Part(product, inner, part.term)
        axis, size = self.step(part)
        name, own = out.fresh("k"), out.fresh("bank")
        load, axes = self.left(part)

        def here(step: str) -> dict[str, str]:
            return {**at, axis.name: step} if axis else at

        with Ahead(body, nest, joins.sites()[1:]) as ahead:
            out.line(f"int32_t {own} = 0;")
            if ahead.tiles:
                with out.braces(f"if ({works} && {size} > 0)"):
                    ahead.fetch(here("0"), inner, "0")
            with out.braces(f"for (int32_t {name} = 0; {name} < {size}; ++{name})"):
                out.line("__sync_io();")
                out.line("__sync_cluster();")      # the left side is in SRAM
                with out.braces(f"if ({works})"):
                    if ahead.tiles and size != "1":
                        with out.braces(f"if ({name} + 1 < {size})"):
                            ahead.fetch(here(f"{name} + 1"), inner, f"(1 - {own})")
                    before = body.extents
                    body.extents = {**before, **body.sizes(inner, here(name))}
                    values = body.values(nest, axes, here(name))
                    _, kept = values.layout(load)
                    left = values.new("float32", kept)
                    count = values.count(kept)
                    out.call("__memcpy_async", left.text, self.sram(bank), times(4, count),
                             "SRAM2NRAM")
                    out.line("__sync_move();")
                    right: Mapping[Node, Value] = ahead.tiles_in(own)[0] if ahead.tiles else {}
                    joins.add(here(name), total, [{load: left}, right])
                    values.give(left)
                    out.line("__sync_compute();")
                    body.extents = before
                out.line(f"{bank} = 1 - {bank};")
                out.line(f"{own} = 1 - {own};")

