"""Softmax of scores times rows, as it runs over groups of rows: sums, tops and totals of heads.

Rows are taken in groups that stay in the nearest caches; of each group, per block of heads:

    stage    rows in any codec and from anywhere, decoded side by side, a tile ahead of
    scores   rows x heads, in register tiles that read each row once for all heads of the block
    weights  e**(score - top so far), a lane is a head
    mix      heads x columns, sums of earlier groups scaled to the new top
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.heads import VISITS, Heads
from firstlight.targets.cpu.kernels.rows import StoredRows
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    ceil_div,
    clear,
    exp,
    fetch,
    get,
    hold,
    put,
    settle,
    spread,
    sweep,
    wide,
)

GROUP = 48
"""Rows of a group, about: whole register tiles. The sums of all heads are read and written once for
each group; its rows stay in the second-level cache."""

AHEAD = 24
"""Rows that are fetched ahead, or those of a group: of fewer some come late, of more the first."""

PARTS = 32
"""Most parts of a token's rows: joining them costs little beside the rows, and an even share can be
had by many threads."""

MIX = {8: (4, 3), 16: (4, 6)}
"""lanes -> (heads, most vectors of columns) of a tile of the mix: 12 or 24 registers of sums."""

NOTHING = -3.0e38
"""The top of no rows."""


@dataclass(frozen=True)
class Rows:
    """Where some of a token's rows are.

    Attributes:
        form: how they are stored.
        memory: flat buffer, row r starts at ``base + r * form.size``.
        base: start, an int64.
        count: how many rows are attended to.
        row: j -> number of the j-th of them.
    """

    form: StoredRows
    memory: Any
    base: Expr
    count: Expr
    row: Callable[[Expr], Expr]


@dataclass(frozen=True)
class Groups:
    """How rows first .. last - 1 of the sources, one after the other, are taken.

    Attributes:
        count: how many groups there are.
        rows: number of a group -> (its first row, its rows; at most `Sums.size`).
        seen: (first row and rows of a group, head) -> (a, b): the head attends to rows a .. b - 1
            of the group.
    """

    first: Expr
    last: Expr
    count: Expr
    rows: Callable[[Expr], tuple[Expr, Expr]]
    seen: Callable[[Expr, Expr, Expr], tuple[Expr, Expr]]


def group_size(block: Heads, least: int = GROUP) -> int:
    """Most rows of a group: whole register tiles."""
    return ceil_div(least, block.tile) * block.tile


def even_groups(size: int, first: Expr, last: Expr) -> Groups:
    """Groups of `size` rows; all heads see all rows."""

    def rows(number: Expr) -> tuple[Expr, Expr]:
        start = T.bind(first + number * size)
        return start, settle(T.min(size, last - start))

    return Groups(first, last, ceil_div(last - first, size), rows,
                  lambda start, count, head: (T.int32(0), count))


Seen = Callable[[Expr], tuple[Expr, Expr]]
"""head of a block -> the part a .. b - 1 of a group's rows that it attends to."""


class Sums:
    """Of each part and head: sums [columns] of weights times rows, the top score, sum of weights.

    Weights are relative to the top. The first part begins with the sink, which enlarges the sum of
    weights and has no row.
    """

    def __init__(self, block: Heads, parts: int, size: int, sink: Callable[[Expr], Expr]) -> None:
        """size: most rows of a group; sink: head -> its sink."""
        self.block, self.size, self.sink = block, size, sink
        self.columns = ceil_div(block.width, block.lanes) * block.lanes
        self.heads = block.blocks * block.block
        """Heads of a part, those that fill up a block included."""
        self.sums = T.alloc_buffer((parts * self.heads * self.columns,), "float32")
        self.tops, self.totals = (
            T.alloc_buffer((parts * self.heads,), "float32") for _ in range(2))

    def gather(self, panel: Callable[[], Any], sources: Sequence[Rows], part: Expr,
               groups: Groups) -> None:
        """Add the rows of `groups` to a part; `panel` makes the packed queries, while the first
        rows are fetched.

        Those of the first and the last source, a ring and entries, are fetched line by line between
        multiplications: a core that is asked for all of a row at once waits.
        """
        block, most, first, last = self.block, sources[-1], groups.first, groups.last
        size = self.size
        far = min(AHEAD, size)
        # Rows must not start a multiple of a page apart: they would share a few lines of the cache
        stride = self.columns + 16
        rows = T.alloc_buffer((size * stride,), "float32")
        weights = T.alloc_buffer((size * block.block,), "float32")
        factors = T.alloc_buffer((block.block,), "float32")

        due, which = Cell(most.base, dtype="int64"), Cell(T.int32(1), dtype="int32")
        lines = max(most.form.width // VISITS, 1)

        def name(form: StoredRows, memory: Any, base: Expr) -> None:
            if not any(memory is source.memory for source in (sources[0], most)):
                form.prefetch(memory, base)
                return
            due.value = base
            which.value = T.int32(memory is most.memory)

        def line(k: Expr) -> None:
            """Fetch a line of the row that is due."""
            def of(source: Rows) -> None:
                apart = -(-source.form.size // lines)
                fetch(source.memory[due.value + k * apart], 2)

            if len(sources) == 1:
                of(most)
                return
            with T.If(which.value > 0):
                with T.Then():
                    of(most)
                with T.Else():
                    of(sources[0])

        with T.serial(T.min(far, last - first)) as r:
            _row(sources, T.bind(first + r),
                 lambda form, memory, base: form.prefetch(memory, base))
        queries = panel()
        self._begin(part)
        with T.serial(groups.count) as number:
            start, count = groups.rows(number)

            def stage(r: Expr, start: Expr = start, count: Expr = count) -> None:
                """Zeros fill up a tile: what else lies there may be subnormal, and slow."""
                place = T.bind(r * stride)
                with T.If(r < count):
                    with T.Then():
                        _row(sources, T.bind(start + r), lambda form, memory, base: form.load(
                            memory, base, rows, place))
                    with T.Else():
                        clear(rows, place, self.columns, block.lanes)

            def ahead(r: Expr, start: Expr = start, count: Expr = count) -> None:
                """Stage a row of the next tile, name one to be fetched."""
                following = T.bind(r + block.tile)
                with T.If(following < block.padded(count)), T.Then():
                    stage(following)
                row = T.bind(start + far + r)
                with T.If(row < last), T.Then():
                    _row(sources, row, name)

            with T.serial(block.tile) as r:
                stage(r)
            with T.serial(block.blocks) as one:
                base = T.bind(part * self.heads + one * block.block)
                self._scores(queries, one, rows, stride, count, weights, ahead, line)

                def seen(head: Expr, start: Expr = start, count: Expr = count, one: Expr = one
                         ) -> tuple[Expr, Expr]:  # fmt: skip
                    return groups.seen(start, count, T.bind(one * block.block + head))

                with T.serial(block.results) as vector:
                    self._weights(base, vector, seen, weights, factors)
                self._mix(base, rows, stride, seen, weights, factors)

    def _begin(self, part: Expr) -> None:
        base = T.bind(part * self.heads)
        with T.serial(self.heads) as head:
            sink = self.sink(T.min(head, self.block.heads - 1))
            put(self.tops, T.Select(part == 0, sink, T.float32(NOTHING)), base + head)
            put(self.totals, T.Select(part == 0, T.float32(1), T.float32(0)), base + head)
        clear(self.sums, base * self.columns, self.heads * self.columns, self.block.lanes)

    def _scores(self, panel: Any, one: Expr, rows: Any, stride: int, count: Expr, weights: Any,
                ahead: Callable[[Expr], None], line: Callable[[Expr], None]) -> None:
        """weights[row][head] = <row, query>, those that fill up a tile included. Meanwhile
        `ahead` is called for each row, once for all heads, and `line` as `products` says."""
        block = self.block

        def visit(tile: Expr, number: Expr) -> Callable[[Expr], None]:
            with T.If(T.And(one == 0, number < block.tile)), T.Then():
                ahead(T.bind(tile * block.tile + number))
            return line

        with T.serial(ceil_div(count, block.tile)) as tile:
            bases = [T.bind((tile * block.tile + r) * stride) for r in range(block.tile)]
            products = block.products(panel, T.bind(one * block.panel_size), rows, bases,
                                      lambda number, tile=tile: visit(tile, number))
            for r, line in enumerate(products):
                for i, value in enumerate(line):
                    at = (tile * block.tile + r) * block.block + i * block.across
                    put(weights, value, at, lanes=block.across)

    def _weights(self, base: Expr, vector: Expr, seen: Seen, weights: Any, factors: Any) -> None:
        """Scores -> e**(score - top); earlier sums are to be scaled by `factors`."""
        block, lanes = self.block, self.block.across
        column = T.bind(vector * lanes)
        place = T.bind(base + column)
        begin, end = seen(column)
        before = T.bind(get(self.tops, place, lanes=lanes))
        top = Cell(before, lanes)
        with T.serial(begin, end) as r:
            score = get(weights, r * block.block + column, lanes=lanes)
            top.value = T.max(top.value, score)
        factor = hold(exp(before - top.value, lanes), lanes)
        total = Cell(get(self.totals, place, lanes=lanes) * factor, lanes)
        with T.serial(begin, end) as r:
            at = T.bind(r * block.block + column)
            p = hold(exp(get(weights, at, lanes=lanes) - top.value, lanes), lanes)
            total.value = total.value + p
            put(weights, p, at, lanes=lanes)
        put(factors, factor, column, lanes=lanes)
        put(self.tops, top.value, place, lanes=lanes)
        put(self.totals, total.value, place, lanes=lanes)

    def _mix(self, base: Expr, rows: Any, stride: int, seen: Seen, weights: Any, factors: Any
             ) -> None:  # fmt: skip
        """sums = sums * factor + weights times rows."""
        block, lanes = self.block, self.block.lanes
        heads, most = MIX[lanes]

        def tile(head: Expr, column: Expr, vectors: int) -> None:
            places = [[T.bind((base + head + h) * self.columns + column + i * lanes)
                       for i in range(vectors)] for h in range(heads)]  # fmt: skip
            begin, end = seen(head)
            cells = []
            for h, line in enumerate(places):
                factor = T.bind(spread(factors[head + h], lanes))
                cells.append([Cell(get(self.sums, at, lanes=lanes) * factor, lanes)
                              for at in line])
            with T.serial(begin, end) as r:
                row, weight = T.bind(r * stride + column), T.bind(r * block.block + head)
                values = [T.bind(get(rows, row + i * lanes, lanes=lanes)) for i in range(vectors)]
                for h, line in enumerate(cells):
                    p = T.bind(spread(weights[weight + h], lanes))
                    for value, cell in zip(values, line, strict=True):
                        cell.value = T.fma(p, value, cell.value)
            for line, cell_line in zip(places, cells, strict=True):
                for at, cell in zip(line, cell_line, strict=True):
                    put(self.sums, cell.value, at, lanes=lanes)

        for start, number, vectors in _cut(self.columns // lanes, most):
            with T.serial(number) as i, T.serial(block.block // heads) as turn:
                column = T.bind((start + i * vectors) * lanes)
                tile(T.bind(turn * heads), column, vectors)

    def finish(self, o: Any, base: Expr, head: Expr, parts: Expr) -> None:
        """o[base ..] = the sums of all parts of a head, over the sum of weights."""
        block, lanes = self.block, self.block.lanes
        top, total = Cell(T.float32(NOTHING)), Cell(T.float32(0))
        with T.serial(parts) as part:
            top.value = T.max(top.value, self.tops[part * self.heads + head])
        factors = T.alloc_buffer((PARTS,), "float32")
        with T.serial(parts) as part:
            at = T.bind(part * self.heads + head)
            factor = hold(exp(self.tops[at] - top.value))
            total.value = total.value + factor * self.totals[at]
            put(factors, factor, part)
        inverse = T.bind(T.float32(1) / total.value)

        def store(i: Expr, n: int) -> None:
            value = Cell(spread(0.0, n), n)
            with T.serial(parts) as part:
                at = (part * self.heads + head) * self.columns + i
                factor = spread(factors[part], n)
                value.value = T.fma(factor, get(self.sums, at, lanes=n), value.value)
            put(o, value.value * spread(inverse, n), base + i, lanes=n)

        sweep(block.width, lanes, store)


def total_rows(sources: Sequence[Rows]) -> Expr:
    """Rows of all sources."""
    total = T.int32(0)
    for source in sources:
        total = total + source.count
    return settle(total)


def _row(sources: Sequence[Rows], place: Expr,
         use: Callable[[StoredRows, Any, Expr], None]) -> None:
    """use(form, memory, start) of the row at `place` of the sources, one after the other."""
    start: Expr = T.int32(0)
    for source in sources:
        own = T.bind(place - start)
        with T.If(T.And(own >= 0, own < source.count)), T.Then():
            base = T.bind(source.base + wide(source.row(own)) * source.form.size)
            use(source.form, source.memory, base)
        start = T.bind(start + source.count)


def _cut(vectors: int, most: int) -> list[tuple[int, int, int]]:
    """Tiles of `vectors`: (first vector, number of tiles, vectors of each), as even as can be."""
    tiles = -(-vectors // most)
    size, larger = divmod(vectors, tiles)
    cuts = [(0, larger, size + 1), (larger * (size + 1), tiles - larger, size)]
    return [cut for cut in cuts if cut[1]]
