"""Steps of a kernel as C: rounds dealt out to tasks, tiles fetched, computed and sent back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from firstlight.codegen.nests.attention import Attention
from firstlight.codegen.nests.nodes import Node
from firstlight.codegen.nests.program import Axis, Nest, Program, Repeat, Selection, Step
from firstlight.codegen.nests.schedule import Tile, tiles
from firstlight.targets.cambricon.ahead import Ahead, Deal
from firstlight.targets.cambricon.chips import Chip
from firstlight.targets.cambricon.codes import Tables
from firstlight.targets.cambricon.groups import Grouped, Lists, write_lists
from firstlight.targets.cambricon.legal import Legal
from firstlight.targets.cambricon.reductions import reduced
from firstlight.targets.cambricon.scalars import Place, Scalars
from firstlight.targets.cambricon.text import Size, Writer
from firstlight.targets.cambricon.tiles import Value
from firstlight.targets.cambricon.values import Values


@dataclass
class Body:
    """Writes a kernel's steps.

    Attributes:
        budget: most elements of a tile.
        matrix: whether products are the matrix unit's.
        staging: whether what a cluster's cores share goes through its SRAM.
        bf16: whether products are of bf16 numbers, where that rounds nothing.
        memory_lines: what the memory core does for that.
        repeats: loops of whole steps around what is written.
    """

    program: Program
    chip: Chip
    out: Writer
    places: dict[str, Place]
    budget: int
    matrix: bool
    tables: Tables
    staging: bool = False
    bf16: bool = False
    memory_lines: list[str] = field(default_factory=list)
    repeats: int = 0
    extents: dict[str, Size] = field(default_factory=dict)
    tile_axes: tuple[Axis, ...] = ()

    def steps(self, steps: Sequence[Step | Lists | Grouped]) -> None:
        """All steps; tasks meet between them."""
        for number, step in enumerate(steps):
            if number:
                self.meet()
            self.step(step)

    def meet(self) -> None:
        """What a task wrote, the others read after this."""
        self.out.line("__sync_all_ipu();")

    def step(self, step: Step | Lists | Grouped) -> None:
        """One step."""
        if isinstance(step, Repeat):
            name = self.out.fresh("again")
            with self.out.braces(f"for (int32_t {name} = 0; {name} < {step.count}; ++{name})"):
                self.repeats += 1
                self.steps(step.steps)
                self.repeats -= 1
                self.meet()
            return
        self.out.line(f"// {step.name}")
        if isinstance(step, Selection):
            from firstlight.targets.cambricon.selection import select

            select(self, step)
            return
        if isinstance(step, Lists):
            write_lists(self, step)
            return
        if isinstance(step, Grouped):
            from firstlight.targets.cambricon.by_group import ByGroup

            ByGroup(self, step).write()
            return
        if isinstance(step, Attention):
            from firstlight.targets.cambricon.attention import Blocks

            Blocks(self, step).write()
            return
        for tile in tiles(step, self.budget, self.matrix, joined=True):
            self.tile(tile)

    # -- loops ----------------------------------------------------------------------------------

    def deal(self, axes: Sequence[Axis]) -> Deal:
        """The steps of all axes as rounds for tasks."""
        scalars = Scalars(self.out, self.places, {"S": "S"})
        return Deal(self.out, tuple(axes), tuple(
            a.extent.number if a.extent.number is not None else scalars.text(a.extent)
            for a in axes))

    @contextmanager
    def rounds(self, axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
        """Steps of all axes, dealt out to tasks; the names of S and of each axis."""
        deal, name = self.deal(axes), self.out.fresh("r")
        head = f"for (int32_t {name} = taskId; {name} < {deal.total}; {name} += taskDim)"
        with self.out.braces(head if deal.total != 1 else "if (taskId == 0)"):
            yield deal.at(name)

    def sizes(self, axes: Sequence[Axis], at: dict[str, str]) -> dict[str, Size]:
        """How many steps of each of a tile's axes there are in this round."""
        scalars, found = Scalars(self.out, self.places, at), dict[str, Size]()
        for axis in axes:
            assert axis.length is not None
            found[axis.name] = axis.length if axis.valid is None else self.out.scalar(
                "int32", scalars.text(axis.valid))
        return found

    def values(self, nest: Nest | None, axes: tuple[Axis, ...], at: dict[str, str],
               acc: Value | None = None) -> Values:
        """A writer of tiles over `axes`, in this order; they need not be a nest's."""
        known = [*axes, *nest.axes, *(a for p in nest.parts for a in p.axes)] if nest else axes
        most = {a.name: a.length - 1 for a in known if a.length is not None}
        legal = Legal(frozenset(a.name for a in axes), self.chip.division, most,
                      acc is not None and bool(acc.axes), tables=True)
        scalars = Scalars(self.out, self.places, at)
        if acc is not None and not acc.axes:
            scalars.acc = acc.text
        return Values(self.out, axes, self.extents, self.chip.segments, self.places, scalars,
                      legal=legal, tables=self.tables, acc=acc)

    @contextmanager
    def memory_core(self) -> Iterator[None]:
        """What is written inside is the memory core's, one level deeper."""
        before, self.out.lines = self.out.lines, self.memory_lines
        self.out.depth += 1
        yield
        self.out.depth -= 1
        self.out.lines = before

    def tile(self, tile: Tile) -> None:
        """The rounds of one tile: read, compute, write."""
        nest = tile.nest
        if self.staging and not self.repeats:
            from firstlight.targets.cambricon.shared import Shared, shared_axis

            axis = shared_axis(tile)
            if axis is not None:
                Shared(self, tile, axis).write()
                return
        axes = tile.inside(nest.axes)
        sites = [(nest.value, axes)] if axes and not nest.join and nest.condition is None else []
        with Ahead(self, nest, sites) as ahead:
            if ahead.tiles:
                self.staged(tile, axes, ahead)
                return
        with self.rounds(tile.outside(nest.axes)) as at, ExitStack() as stack:
            if nest.condition is not None:
                condition = Scalars(self.out, self.places, at).text(nest.condition)
                stack.enter_context(self.out.braces(f"if ({condition})"))
            self.extents = self.sizes(axes, at)
            self.finish(tile, axes, at, self.accumulated(tile, axes, at))

    def staged(self, tile: Tile, axes: tuple[Axis, ...], ahead: Ahead) -> None:
        """Rounds whose tiles are fetched while the round before computes."""
        deal, name = self.deal(tile.outside(tile.nest.axes)), self.out.fresh("r")
        one = deal.total == 1
        bank = self.out.fresh("bank")
        if not one:
            self.out.line(f"int32_t {bank} = 0;")
        with self.out.braces(f"if (taskId < {deal.total})"):
            ahead.fetch(deal.at("taskId"), axes, "0")
        head = f"for (int32_t {name} = taskId; {name} < {deal.total}; {name} += taskDim)"
        with self.out.braces("if (taskId == 0)" if one else head):
            # this round's tiles are here, the last round's results are gone
            self.out.line("__sync_io();")
            if not one:
                with self.out.braces(f"if ({name} + taskDim < {deal.total})"):
                    ahead.fetch(deal.at(f"{name} + taskDim"), axes, f"(1 - {bank})")
            at = deal.at(name)
            self.extents = self.sizes(axes, at)
            (fetched,) = ahead.tiles_in("0" if one else bank)
            self.finish(tile, axes, at, None, fetched, True)
            if not one:
                self.out.line(f"{bank} = 1 - {bank};")
        self.out.line("__sync_io();")

    def finish(self, tile: Tile, axes: tuple[Axis, ...], at: dict[str, str], acc: Value | None,
               fetched: Mapping[Node, Value] | None = None, staged: bool = False) -> None:
        """Compute a round's result from what was accumulated, and write it."""
        values = self.values(tile.nest, axes, at, acc)
        values.fetched = fetched or {}
        result = values.root(tile.nest.value)
        values.store(result, tile.nest.index, self.places[tile.nest.buffer.name], staged)
        values.give(result)
        if acc is not None and acc is not result:
            values.give(acc)

    def accumulated(self, tile: Tile, axes: tuple[Axis, ...], at: dict[str, str]) -> Value | None:
        """What the nest's terms come to, if it has any."""
        if tile.product:
            from firstlight.targets.cambricon.products import Product

            return Product(self, tile, at).total()
        return reduced(self, tile, axes, at) if tile.nest.join else None
