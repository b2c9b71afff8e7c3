"""Steps of a kernel as C: rounds dealt out to tasks, tiles fetched, computed and sent back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Axis, Nest, Program, Repeat, Selection, Step
from firstlight.codegen.nests.schedule import Tile, tiles
from firstlight.targets.cambricon.chips import Chip
from firstlight.targets.cambricon.legal import Legal
from firstlight.targets.cambricon.scalars import Place, Scalars
from firstlight.targets.cambricon.text import Size, Writer, atom, times
from firstlight.targets.cambricon.values import Value, Values

NEUTRAL = {("sum", "float32"): "0.0f", ("sum", "int32"): "0",
           ("max", "float32"): "fl_as_float32(0xff800000u)", ("max", "int32"): "(-2147483647 - 1)"}
JOIN = {"sum": "__bang_add", "max": "__bang_maxequal"}


@dataclass
class Body:
    """Writes a kernel's steps.

    Attributes:
        budget: most elements of a tile.
        matrix: whether products are the matrix unit's.
    """

    program: Program
    chip: Chip
    out: Writer
    places: dict[str, Place]
    budget: int
    matrix: bool
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
                self.steps(step.steps)
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

    @contextmanager
    def rounds(self, axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
        """Steps of all axes, dealt out to tasks; the names of S and of each axis."""
        at = {"S": "S"}
        scalars = Scalars(self.out, self.places, at)
        sizes: list[Size] = [a.extent.number if a.extent.number is not None
                             else scalars.text(a.extent) for a in axes]
        total, name = times(*sizes), self.out.fresh("r")
        head = f"for (int32_t {name} = taskId; {name} < {total}; {name} += taskDim)"
        with self.out.braces(head if total != 1 else "if (taskId == 0)"):
            left = name
            for axis, size in reversed(list(zip(axes[1:], sizes[1:], strict=True))):
                at[axis.name] = self.out.scalar("int32", f"{atom(left)} % {atom(size)}")
                left = f"{atom(left)} / {atom(size)}"
            if axes:
                at[axes[0].name] = self.out.scalar("int32", left) if left != name else name
            yield at

    def sizes(self, axes: Sequence[Axis], at: dict[str, str]) -> dict[str, Size]:
        """How many steps of each of a tile's axes there are in this round."""
        scalars, found = Scalars(self.out, self.places, at), {}
        for axis in axes:
            assert axis.length is not None
            found[axis.name] = axis.length if axis.valid is None else self.out.scalar(
                "int32", scalars.text(axis.valid))
        return found

    def values(self, nest: Nest, axes: tuple[Axis, ...], at: dict[str, str],
               acc: Value | None = None) -> Values:
        """A writer of tiles over `axes`, in this order."""
        most = {a.name: a.length - 1 for a in (*nest.axes, *(a for p in nest.parts for a in p.axes))
                if a.length is not None}
        legal = Legal(frozenset(a.name for a in axes), self.chip.division, most,
                      acc is not None and bool(acc.axes))
        scalars = Scalars(self.out, self.places, at)
        if acc is not None and not acc.axes:
            scalars.acc = acc.text
        return Values(self.out, self.places, axes, self.extents, scalars, legal, acc)

    def tile(self, tile: Tile) -> None:
        """The rounds of one tile: read, compute, write."""
        nest = tile.nest
        with self.rounds(tile.outside(nest.axes)) as at, ExitStack() as stack:
            if nest.condition is not None:
                condition = Scalars(self.out, self.places, at).text(nest.condition)
                stack.enter_context(self.out.braces(f"if ({condition})"))
            axes = tile.inside(nest.axes)
            self.extents = self.sizes(axes, at)
            acc = None
            if tile.product:
                from firstlight.targets.cambricon.products import Product

                acc = Product(self, tile, at).total()
            elif nest.join:
                acc = self.reduced(tile, axes, at)
            values = self.values(nest, axes, at, acc)
            result = values.root(nest.value)
            values.store(result, nest.index, self.places[nest.buffer.name])
            values.give(result)
            if acc is not None and acc is not result:
                values.give(acc)

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
            self.part(tile, part.term, tile.outside(part.axes), inside, at, total)
        if names:
            return total
        text = self.out.scalar(dtype, f"{total.text}[0]")
        values.give(total)
        return Value(text, dtype)

    def part(self, tile: Tile, term: Node, loops: tuple[Axis, ...], inside: tuple[Axis, ...],
             at: dict[str, str], total: Value) -> None:
        """`total` and the terms of a part joined, loop by loop."""
        if loops:
            axis, *rest = loops
            size = Scalars(self.out, self.places, at).text(axis.extent)
            name = self.out.fresh("k")
            with self.out.braces(f"for (int32_t {name} = 0; {name} < {size}; ++{name})"):
                self.part(tile, term, tuple(rest), inside, {**at, axis.name: name}, total)
            return
        self.extents = {**self.extents, **self.sizes(inside, at)}
        self.joined(tile, term, inside, at, total)

    def joined(self, tile: Tile, term: Node, gone: tuple[Axis, ...], at: dict[str, str],
               total: Value) -> None:
        """One tile of terms joined to the total."""
        nest, kept = tile.nest, tile.inside(tile.nest.axes)
        first = gone and kept and not self.across(term, kept, gone)
        order = (*kept, *gone) if first else (*gone, *kept)
        values = self.values(nest, order, at)
        value = values.root(term)
        full = (values.spread(value, tuple(a.name for a in order)) if order
                else values.spread_one(value))
        values.give(value)
        rows, row = (values.count(tuple(a.name for a in some)) for some in (gone, kept))
        if first:
            turned = values.new(total.dtype, full.axes)
            self.out.call("__bang_transpose", turned.text, full.text, row, rows)
            values.give(full)
            full = turned
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
