"""All heads of one token attend to their rows: scores, softmax with a sink, mix, inverse rope.

Keys are values, and all heads share them. Per block of heads:

    scores   rows x heads, in register tiles that read each row once for all heads of the block
    softmax  over rows, a lane is a head; the sink enlarges the denominator
    mix      heads x columns, in groups of rows and chunks of columns

A table of row numbers per source makes window, own tokens and entries alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.heads import Heads
from firstlight.targets.cpu.kernels.rope import table
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    ceil_div,
    decode,
    exp,
    get,
    hold,
    put,
    spread,
    wide,
)

COLUMNS = {8: 96, 16: 64}
"""lanes -> columns per chunk, whole tiles of the mix: the sums of a block of heads stay in the
first-level cache, and the usual widths are cut into equal shares for two threads and more."""

ROWS = 32
"""Rows between two visits of a sum in memory."""

MIX = {8: (4, 3), 16: (8, 2)}
"""lanes -> (heads, vectors of columns) of a tile of the mix: 12 of 16 or 16 of 32 registers."""

NOTHING = -3.0e38
"""Added to the score of a row that is not there."""


@dataclass(frozen=True)
class Rows:
    """Where some of a token's rows are.

    Attributes:
        memory: flat buffer, row r starts at ``base + r * width``.
        base: start, an int64.
        count: how many rows are attended to.
        row: j -> number of the j-th row; negative for none.
        start: place of j = 0 among the token's rows; a multiple of the tile.
    """

    memory: Any
    base: Expr
    count: Expr
    row: Callable[[Expr], Expr]
    start: Expr = 0


@dataclass(frozen=True)
class Scratch:
    """Buffers of one token, or of one block of heads of it.

    Attributes:
        panel: packed queries [blocks][width][block].
        scores: [blocks][places][block].
        places: number of rows there is room for.
        rows: row numbers [places] i32, -1 for none.
        inverse: 1 / denominator [blocks][block].
    """

    panel: Any
    scores: Any
    places: int
    rows: Any
    inverse: Any


def scratch_of(block: Heads, blocks: int, places: int) -> Scratch:
    """Room for `blocks` blocks of heads and `places` rows."""
    return Scratch(
        T.alloc_buffer((blocks * block.panel_size,), "float32"),
        T.alloc_buffer((blocks * places * block.block,), "float32"),
        places,
        T.alloc_buffer((places,), "int32"),
        T.alloc_buffer((blocks * block.block,), "float32"),
    )


@dataclass(frozen=True)
class Attend:
    """The steps; `part` counts the blocks in the scratch, `block` those of the heads."""

    block: Heads
    scale: float
    sink_codec: str
    sinks: Any
    freqs: Any
    pairs: int
    q: Any
    o: Any

    def alone(self, scratch: Scratch, token: Expr, t: Expr, sources: Sequence[Rows]) -> None:
        """One token, one block of heads after the other, in one thread."""
        sources, total = self._list_rows(scratch, sources)
        with T.serial(self.block.blocks) as block:
            self._pack(scratch, token, block, 0)
            for source in sources:
                with T.serial(self._tiles(source)) as tile:
                    self._scores(scratch, 0, source, tile)
            with T.serial(self.block.vectors) as vector:
                self._softmax(scratch, 0, block, vector, total)
            with T.serial(self._chunks) as chunk:
                self._mix(scratch, token, 0, block, chunk, sources)
        self._turn_back(token, t)

    def together(self, scratch: Scratch, token: Expr, t: Expr, sources: Sequence[Rows]) -> None:
        """One token, each step shared among the threads."""
        sources, total = self._list_rows(scratch, sources)
        blocks, vectors = self.block.blocks, self.block.vectors
        with T.serial(blocks) as block:
            self._pack(scratch, token, block, block)
        with T.parallel(total // self.block.tile) as tile:
            for source in sources:
                own = T.bind(tile - source.start // self.block.tile)
                with T.If(T.And(own >= 0, own < self._tiles(source))), T.Then():
                    with T.serial(blocks) as block:
                        self._scores(scratch, block, source, own)
        with T.parallel(blocks * vectors) as task:
            block = T.bind(task // vectors)
            self._softmax(scratch, block, block, task % vectors, total)
        with T.parallel(self._chunks * blocks) as task:
            block = T.bind(task // self._chunks)
            self._mix(scratch, token, block, block, T.bind(task % self._chunks), sources)
        self._turn_back(token, t)

    @property
    def _chunks(self) -> int:
        return -(-self.block.width // COLUMNS[self.block.lanes])

    def _tiles(self, source: Rows) -> Expr:
        return ceil_div(source.count, self.block.tile)

    def _list_rows(self, scratch: Scratch, sources: Sequence[Rows]) -> tuple[list[Rows], Expr]:
        """Row numbers of all sources, one after the other; (sources with starts, places)."""
        placed, start = [], T.int32(0)
        for source in sources:
            placed.append(replace(source, start=start))
            places = T.bind(self._tiles(source) * self.block.tile)
            with T.serial(places) as j:
                row = T.if_then_else(j < source.count, source.row(j), -1)
                put(scratch.rows, row, start + j)
            start = T.bind(start + places)
        return placed, start

    def _pack(self, scratch: Scratch, token: Expr, block: Expr, part: Expr) -> None:
        base = T.bind(wide(token) * (self.block.heads * self.block.width))
        place = T.bind(part * self.block.panel_size)
        self.block.pack(self.q, base, block, scratch.panel, place, self.scale)

    def _base(self, scratch: Scratch, source: Rows, place: Expr) -> Expr:
        row = T.max(scratch.rows[place], 0)
        return T.bind(source.base + wide(row) * self.block.width)

    def _scores(self, scratch: Scratch, part: Expr, source: Rows, tile: Expr) -> None:
        lanes, count = self.block.lanes, self.block.tile
        first = T.bind(source.start + tile * count)
        bases = [self._base(scratch, source, first + r) for r in range(count)]
        panel = T.bind(part * self.block.panel_size)
        products = self.block.products(scratch.panel, panel, source.memory, bases)
        out = T.bind((part * scratch.places + first) * self.block.block)
        for r, line in enumerate(products):
            gone = T.Select(scratch.rows[first + r] < 0, T.float32(NOTHING), T.float32(0))
            penalty = T.bind(spread(gone, lanes))
            for i, value in enumerate(line):
                at = out + r * self.block.block + i * lanes
                put(scratch.scores, value + penalty, at, lanes=lanes)

    def _softmax(
        self, scratch: Scratch, part: Expr, block: Expr, vector: Expr, total: Expr
    ) -> None:
        """Scores -> e**(score - top); the denominator, sink included, goes to `inverse`."""
        lanes, heads = self.block.lanes, self.block.heads
        staged = T.alloc_buffer((lanes,), "float32")
        with T.serial(lanes) as lane:
            head = T.min(block * self.block.block + vector * lanes + lane, heads - 1)
            put(staged, decode(self.sinks, self.sink_codec, head), lane)
        sink = T.bind(get(staged, 0, lanes=lanes))
        column = T.bind(part * (scratch.places * self.block.block) + vector * lanes)

        def visit(step: Callable[[Expr, int], None]) -> None:
            with T.serial(total // 2) as two:  # tiles have even numbers of rows
                for chain in range(2):
                    step(T.bind(column + (two * 2 + chain) * self.block.block), chain)

        tops = [Cell(sink, lanes) for _ in range(2)]

        def highest(at: Expr, chain: int) -> None:
            score = get(scratch.scores, at, lanes=lanes)
            tops[chain].value = T.max(tops[chain].value, score)

        visit(highest)
        top = hold(T.max(tops[0].value, tops[1].value), lanes)
        sums = [Cell(exp(sink - top, lanes), lanes), Cell(spread(0.0, lanes), lanes)]

        def power(at: Expr, chain: int) -> None:
            p = hold(exp(get(scratch.scores, at, lanes=lanes) - top, lanes), lanes)
            sums[chain].value = sums[chain].value + p
            put(scratch.scores, p, at, lanes=lanes)

        visit(power)
        inverse = spread(1.0, lanes) / (sums[0].value + sums[1].value)
        put(scratch.inverse, inverse, part * self.block.block + vector * lanes, lanes=lanes)

    def _mix(
        self, scratch: Scratch, token: Expr, part: Expr, block: Expr, chunk: Expr,
        sources: Sequence[Rows],
    ) -> None:  # fmt: skip
        """o = sum of weights times rows, for one block of heads and one chunk of columns."""
        lanes, width, most = self.block.lanes, self.block.width, COLUMNS[self.block.lanes]
        heads, vectors = MIX[lanes]
        first = T.bind(chunk * most)
        columns = T.bind(T.min(most, width - first))
        sums = T.alloc_buffer((self.block.block * most,), "float32")
        with T.serial(self.block.block * most // lanes) as i:
            put(sums, spread(0.0, lanes), i * lanes, lanes=lanes)
        weights = T.bind(part * (scratch.places * self.block.block))

        def tile(source: Rows, rows: tuple[Expr, Expr], head: Expr, at: Expr, count: int,
                 n: int) -> None:  # fmt: skip
            """`heads` heads by `count` vectors of n columns, over rows[0] .. rows[1] - 1."""
            where = [[T.bind((head + h) * most + at + i * n) for i in range(count)]
                     for h in range(heads)]  # fmt: skip
            cells = [[Cell(get(sums, a, lanes=n), n) for a in line] for line in where]
            with T.serial(*rows) as j:
                place = T.bind(source.start + j)
                base = T.bind(self._base(scratch, source, place) + (first + at))
                values = [T.bind(get(source.memory, base + i * n, lanes=n)) for i in range(count)]
                weight = T.bind(weights + place * self.block.block + head)
                for h, line in enumerate(cells):
                    p = T.bind(spread(scratch.scores[weight + h], n))
                    for value, cell in zip(values, line, strict=True):
                        cell.value = T.fma(p, value, cell.value)
            for line, cell_line in zip(where, cells, strict=True):
                for a, cell in zip(line, cell_line, strict=True):
                    put(sums, cell.value, a, lanes=n)

        for source in sources:
            with T.serial(ceil_div(source.count, ROWS)) as group:
                rows = (T.bind(group * ROWS), T.bind(T.min(group * ROWS + ROWS, source.count)))
                with T.serial(self.block.block // heads) as turn:
                    head, whole = T.bind(turn * heads), vectors * lanes
                    with T.serial(columns // whole) as i:
                        tile(source, rows, head, T.bind(i * whole), vectors, lanes)
                    if width % most % whole >= lanes or (width > most and most % whole):
                        with T.serial(columns % whole // lanes) as i:
                            at = T.bind(columns // whole * whole + i * lanes)
                            tile(source, rows, head, at, 1, lanes)
                    if width % lanes:
                        with T.serial(columns // lanes * lanes, columns) as i:
                            tile(source, rows, head, i, 1, 1)

        limit = T.min(self.block.block, self.block.heads - block * self.block.block)
        with T.serial(limit) as h:
            factor = T.bind(scratch.inverse[part * self.block.block + h])
            row = wide(token * self.block.heads + block * self.block.block + h)
            out = T.bind(row * width + first)

            def store(i: Expr, n: int) -> None:
                value = get(sums, h * most + i, lanes=n) * spread(factor, n)
                put(self.o, value, out + i, lanes=n)

            with T.serial(columns // lanes) as i:
                store(i * lanes, lanes)
            if width % lanes:
                with T.serial(columns // lanes * lanes, columns) as i:
                    store(i, 1)

    def _turn_back(self, token: Expr, t: Expr) -> None:
        """Inverse rope at the query's position: values were summed with their keys' turns."""
        turn = table(self.freqs, self.pairs, t, self.block.lanes, inverse=True)
        with T.serial(self.block.heads) as head:
            row = wide(token * self.block.heads + head) * self.block.width
            turn.rotate(self.o, T.bind(row + (self.block.width - 2 * self.pairs)), self.block.lanes)
