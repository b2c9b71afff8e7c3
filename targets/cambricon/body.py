"""Steps of a kernel as C: rounds dealt out to tasks, tiles fetched, computed and sent back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Axis, Nest, Program, Repeat, Selection, Step
from firstlight.codegen.nests.schedule import Tile, tiles
from firstlight.targets.cambricon.ahead import Ahead, Deal
from firstlight.targets.cambricon.chips import Chip
from firstlight.targets.cambricon.codes import Tables
from firstlight.targets.cambricon.legal import Legal
from firstlight.targets.cambricon.scalars import Place, Scalars
from firstlight.targets.cambricon.text import Size, Writer, atom, times
from firstlight.targets.cambricon.tiles import Value
from firstlight.targets.cambricon.values import Values

NEUTRAL = {("sum", "float32"): "0.0f", ("sum", "int32"): "0",
           ("max", "float32"): "fl_as_float32(0xff800000u)", ("max", "int32"): "(-2147483647 - 1)"}
JOIN = {"sum": "__bang_add", "max": "__bang_maxequal"}


class Joins(Protocol):
    """What a loop over terms does in each step."""

    @property
    def nest(self) -> Nest:
        """The nest that the terms are of."""

    def sites(self) -> list[tuple[Node, tuple[Axis, ...]]]:
        """What is computed in tiles, and over which axes."""

    def add(self, at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One step's terms joined to the total."""


@dataclass(frozen=True)
class Terms:
    """Terms of a sum or of a largest value."""

    body: Body
    tile: Tile
    inside: tuple[Axis, ...]
    term: Node

    @property
    def nest(self) -> Nest:
        """The nest that the terms are of."""
        return self.tile.nest

    def sites(self) -> list[tuple[Node, tuple[Axis, ...]]]:
        """The term, over all axes of the tile: kept ones last where memory has them side by side.
        """
        kept = self.tile.inside(self.nest.axes)
        rows = self.inside and kept and not self.body.across(self.term, kept, self.inside)
        return [(self.term, (*kept, *self.inside) if rows else (*self.inside, *kept))]

    def add(self, at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One tile of terms joined to the total."""
        ((term, order),) = self.sites()
        self.body.joined(self.tile, term, order, at, total, fetched[0])


@dataclass
class Body:
    """Writes a kernel's steps.

    Attributes:
        budget: most elements of a tile.
        matrix: whether products are the matrix unit's.
        staging: whether what a cluster's cores share goes through its SRAM.
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
    memory_lines: list[str] = field(default_factory=list)
    repeats: int = 0
    extents: dict[str, Size] = field(default_factory=dict)
    tile_axes: tuple[Axis, ...] = ()

    def steps(self, steps: Sequence[Step]) -> None:
        """All steps; tasks meet between them."""
        for number, step in enumerate(steps):
            if number:
                self.meet()
            self.step(step)

    def meet(self) -> None:
        """What a task wrote, the others read after this."""
        self.out.line("__sync_all_ipu();")

    def step(self, step: Step) -> None:
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
        for tile in tiles(step, self.budget, self.matrix):
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
        return self.reduced(tile, axes, at) if tile.nest.join else None

    # -- reductions -----------------------------------------------------------------------------

    def reduced(self, tile: Tile, axes: tuple[Axis, ...], at: dict[str, str]) -> Value:
        """All parts' terms joined: a value for each place of the tile."""
        nest = tile.nest
        dtype = nest.parts[0].term.dtype
        values = self.values(nest, axes, at)
        names = tuple(a.name for a in axes)
        total = values.new(dtype, names)
        self.out.call("__bang_write_value", total.text, values.count(names),
                      NEUTRAL[nest.join, dtype])
        for part in nest.parts:
            inside = tile.inside(part.axes)
            terms = Terms(self, tile, inside, part.term)
            self.part(terms, tile.outside(part.axes), inside, at, total)
        if names:
            return total
        text = self.out.scalar(dtype, f"{total.text}[0]")
        values.give(total)
        return Value(text, dtype)

    def part(self, terms: Joins, loops: tuple[Axis, ...], inside: tuple[Axis, ...],
             at: dict[str, str], total: Value) -> None:
        """The terms of a part joined to `total`, loop by loop; tiles of the innermost loop are
        fetched one step ahead."""
        if not loops:
            self.extents = {**self.extents, **self.sizes(inside, at)}
            terms.add(at, total, [{} for _ in terms.sites()])
            return
        axis, *rest = loops
        size = Scalars(self.out, self.places, at).text(axis.extent)
        name = self.out.fresh("k")
        head = f"for (int32_t {name} = 0; {name} < {size}; ++{name})"
        with Ahead(self, terms.nest, terms.sites() if not rest else []) as ahead:
            if not ahead.tiles:
                with self.out.braces(head):
                    self.part(terms, tuple(rest), inside, {**at, axis.name: name}, total)
                return
            bank = self.out.fresh("bank")
            self.out.line(f"int32_t {bank} = 0;")
            with ExitStack() as stack:
                if axis.extent.number is None:
                    stack.enter_context(self.out.braces(f"if ({size} > 0)"))
                ahead.fetch({**at, axis.name: "0"}, inside, "0")
            with self.out.braces(head):
                self.out.line("__sync_io();")
                with self.out.braces(f"if ({name} + 1 < {size})"):
                    ahead.fetch({**at, axis.name: f"{name} + 1"}, inside, f"(1 - {bank})")
                here = {**at, axis.name: name}
                self.extents = {**self.extents, **self.sizes(inside, here)}
                terms.add(here, total, ahead.tiles_in(bank))
                self.out.line("__sync_compute();")
                self.out.line(f"{bank} = 1 - {bank};")

    def joined(self, tile: Tile, term: Node, order: tuple[Axis, ...], at: dict[str, str],
               total: Value, fetched: Mapping[Node, Value]) -> None:
        """One tile of terms joined to the total."""
        nest, kept = tile.nest, tile.inside(tile.nest.axes)
        gone = tuple(a for a in order if a not in kept)
        values = self.values(nest, order, at)
        values.fetched = fetched
        value = values.root(term)
        full = (values.spread(value, tuple(a.name for a in order)) if order
                else values.spread_one(value))
        values.give(value)
        rows, row = (values.count(tuple(a.name for a in some)) for some in (gone, kept))
        if gone and kept and order[0] in kept:
            turned = values.new(total.dtype, full.axes)
            self.out.call("__bang_transpose", turned.text, full.text, row, rows)
            values.give(full)
            full = turned
        elif rows != 1 and full.held is None:      # folding writes, and this is still fetched
            own = values.new(total.dtype, full.axes)
            self.out.call("__bang_move", own.text, full.text, times(4, rows, row))
            full = own
        self.folded(nest.join, full.text, rows, row)
        self.out.call(JOIN[nest.join], total.text, total.text, full.text, row)
        values.give(full)

    def folded(self, join: str, tile: str, rows: Size, row: Size) -> None:
        """Rows joined into the first one, the upper half to the lower one each time."""
        if rows == 1:
            return
        left, half = self.out.fresh("g"), self.out.fresh("h")
        with self.out.braces(f"for (int32_t {left} = {rows}; {left} > 1;)"):
            self.out.line(f"const int32_t {half} = {left} / 2;")
            self.out.line(f"{left} -= {half};")
            width = "" if row == 1 else f" * {atom(row)}"
            self.out.call(JOIN[join], tile, tile, f"{tile} + {left}{width}", f"{half}{width}")

    def across(self, term: Node, kept: tuple[Axis, ...], gone: tuple[Axis, ...]) -> bool:
        """Whether what a term reads lies side by side along the last kept axis."""
        votes = 0
        for node in walk(term):
            if node.op == "load":
                index = linear(node.args[1], {})
                votes += coefficient(index, kept[-1].name) == 1
                votes -= coefficient(index, gone[-1].name) == 1
        return votes > 0
