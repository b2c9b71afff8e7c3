"""Products of vectors with matrices for chips of many threads.

A group computes a few rows of the result: its threads stand side by side along a row, read
neighbouring words, and add up what they have in the group's memory. With many tokens a word is
decoded once for several of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt.schedule import barrier
from firstlight.codegen.simt.weights import Weight
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.passes.capabilities import Threads

TOKENS = 4
"""Tokens that share a decoded word, where there are several."""
UNSTEPPED = 16
"""Threads along a row where none run in step."""
Read = Callable[[int, Any], Any]
"""(number of a token among those of the group, column) -> the element of its vector."""


@dataclass(frozen=True)
class Shape:
    """`rows` rows of the result at a time, `lanes` threads along each, for `tokens` tokens."""

    rows: int
    lanes: int
    tokens: int

    @property
    def threads(self) -> int:
        """Threads of a group."""
        return self.rows * self.lanes


def shape_for(threads: Threads, row_words: int, tokens: int, sums: int, room: int) -> Shape:
    """The shape of groups on a chip; `sums` per token and row have to fit `room` bytes."""
    lanes = threads.warp if threads.warp > 1 else UNSTEPPED
    while lanes > 1 and lanes > row_words:
        lanes //= 2
    count = 1 if tokens == 1 else TOKENS
    rows = max(threads.group // lanes, 1)
    while rows > 1 and 4 * rows * lanes * count * sums > room:
        rows //= 2
    return Shape(rows, lanes, count)


def linears(name: str, segments: Sequence[Weight], groups: int, tokens: int, threads: Threads,
            room: int) -> Kernel:
    """x [S, G, K] and weights [G*N_i, K] -> y_i [S, G*N_i]; rows g*N_i.. are for x[:, g].

    Args:
        tokens: 1 if x has one row, which it may also where S is more (the last token of a call);
            else anything.
        room: bytes of group memory.
    """
    names = [w.pointers(f"w{i}") for i, w in enumerate(segments)]
    k = segments[0].k

    def body(x_: Any, *rest: Any) -> None:
        *pointers, count = rest
        count = T.int32(1) if tokens == 1 else count
        x = T.decl_buffer((count * groups * k,), "float32", data=x_)
        for weight, own in zip(segments, names, strict=True):
            weight.bind(pointers[:len(own)])
            del pointers[:len(own)]
        for weight, y_ in zip(segments, pointers, strict=True):
            y = T.decl_buffer((count * weight.n,), "float32", data=y_)
            _segment(x, weight, y, groups, count, shape_for(
                threads, weight.row_words, tokens, 1, room))

    results = [(f"y{i}", "float32") for i in range(len(segments))]
    pointers = [("x", "float32"), *(p for own in names for p in own), *results]
    return Kernel(name, prim_func(name, pointers, body), (None,) * (1 + len(segments)))


def _segment(x: Any, weight: Weight, y: Any, groups: int, count: Any, shape: Shape) -> None:
    with group(shape, weight.n, _tiles(count, shape.tokens)) as (row, lane, tile):
        kept = T.bind(T.min(row, T.int32(weight.n - 1)))
        part = T.bind(kept // (weight.n // groups)) if groups > 1 else T.int32(0)
        sums = Sums(shape, 1)
        starts = [T.bind((token(tile, t, shape, count) * groups + part) * weight.k)
                  for t in range(shape.tokens)]
        sums.add(0, weight, T.int32(0), kept, lane, lambda t, column: x[starts[t] + column])
        totals = sums.join(row, lane)
        with T.If(T.And(lane < 1, row < weight.n)), T.Then():
            for t in range(shape.tokens):
                at = tile * shape.tokens + t
                with T.If(at < count), T.Then():
                    T.buffer_store(y, totals(0, t), [at * weight.n + row])


class group:
    """Groups of a shape over `rows` rows and `tiles` tiles of tokens; gives (row, lane, tile)."""

    def __init__(self, shape: Shape, rows: int, tiles: Any) -> None:
        self.shape = shape
        self.frames = [T.launch_thread("blockIdx.x", -(-rows // shape.rows)),
                       T.launch_thread("blockIdx.y", tiles),
                       T.launch_thread("threadIdx.x", shape.threads)]

    def __enter__(self) -> tuple[Any, Any, Any]:
        block, tile, thread = (frame.__enter__() for frame in self.frames)
        self.thread = thread
        row = T.bind(block * self.shape.rows + T.floordiv(thread, self.shape.lanes))
        return row, T.bind(T.floormod(thread, self.shape.lanes)), tile

    def __exit__(self, *error: Any) -> None:
        for frame in reversed(self.frames):
            frame.__exit__(*error)


class Sums:
    """What the threads along a row have added up, `many` sums for each token."""

    def __init__(self, shape: Shape, many: int) -> None:
        self.shape, self.many = shape, many
        self.own = T.alloc_buffer((many * shape.tokens,), "float32", scope="local")
        for i in range(many * shape.tokens):
            T.buffer_store(self.own, T.float32(0), [i])

    def add(self, number: int, weight: Weight, matrix: Any, row: Any, lane: Any, read: Read,
            factor: Any = None) -> None:
        """Add the products of a row, and of the tokens' vectors, to one of the sums."""
        lanes, words = self.shape.lanes, weight.row_words
        with T.serial(-(-words // lanes)) as step:
            word = T.bind(step * lanes + lane)
            if words % lanes:
                with T.If(word < words), T.Then():
                    self._add_word(number, weight, matrix, row, word, read, factor)
            else:
                self._add_word(number, weight, matrix, row, word, read, factor)

    def _add_word(self, number: int, weight: Weight, matrix: Any, row: Any, word: Any, read: Read,
                  factor: Any) -> None:
        values, scale = weight.read(matrix, row, word)
        values = [T.bind(v) for v in values] if self.shape.tokens > 1 else values
        for t in range(self.shape.tokens):
            products = [v * read(t, word * weight.per + i) for i, v in enumerate(values)]
            total = products[0]
            for product in products[1:]:
                total = total + product
            total = total if scale is None else total * scale
            total = total if factor is None else total * factor
            at = number * self.shape.tokens + t
            T.buffer_store(self.own, self.own[at] + total, [at])

    def join(self, row: Any, lane: Any) -> Callable[[int, int], Any]:
        """Add up along rows, in the group's memory; (number, token) -> total, in lane 0."""
        shape = self.shape
        if shape.lanes == 1:
            return lambda number, t: self.own[number * shape.tokens + t]
        many = self.many * shape.tokens
        cells = T.alloc_buffer((many * shape.threads,), "float32", scope="shared")
        mine = T.bind(T.floormod(row, shape.rows) * shape.lanes + lane)
        for i in range(many):
            T.buffer_store(cells, self.own[i], [i * shape.threads + mine])
        half = shape.lanes // 2
        while half:
            T.evaluate(barrier().value)
            with T.If(lane < half), T.Then():
                for i in range(many):
                    at = i * shape.threads + mine
                    T.buffer_store(cells, cells[at] + cells[at + half], [at])
            half //= 2
        return lambda number, t: cells[(number * shape.tokens + t) * shape.threads + mine]


def token(tile: Any, number: int, shape: Shape, count: Any) -> Any:
    """A token of a tile; the last one, where there are fewer."""
    return tile if shape.tokens == 1 else T.min(tile * shape.tokens + number, count - 1)


def _tiles(count: Any, tokens: int) -> Any:
    return count if tokens == 1 else T.floordiv(count + (tokens - 1), T.int32(tokens))
