"""How loops are shared among threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from firstlight.codegen.regions import MOST
from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import Expr, settle, wide

CHUNKS = 512
"""Most chunks of a region: several for each thread of any machine we know."""

APART = 64
"""Chunks of a region of a few large pieces: of 2, 3, 4 or 8 threads each begins with its own."""

FEW = 1 << 15
"""Values that one thread works on in the time that it takes to start others, and to fetch from
their caches what they wrote: some microseconds where two cores share no cache."""


def loop(count: Expr, values: int) -> Any:
    """A loop over `count` rows, shared if there may be more than `FEW` values in all of them.

    Kernels are given the most `tokens` of a call to know that.
    """
    return T.parallel(count) if values > FEW else T.serial(count)


@contextmanager
def parallel_few(count: Expr | int, most: int) -> Iterator[Expr]:
    """A parallel loop over `count` <= `most` large pieces.

    The pool gives each thread consecutive chunks of a loop: pieces lie apart in one of many, so
    that few threads begin with pieces of their own and need not take them from each other. `most`
    is for plans (`firstlight.codegen.regions`).
    """
    if isinstance(count, int):
        apart = max(APART // count, 1)
    else:
        apart = settle(T.max(T.truncdiv(T.int32(APART), T.max(count, 1)), 1))
    with (T.parallel(count * apart, annotations={MOST: most}) as chunk,
          T.If(chunk % apart == 0), T.Then()):
        yield T.bind(chunk // apart)


def parallel_by_bytes(work: Sequence[tuple[int, int, Callable[[Expr], None]]]) -> None:
    """Make the tiles of several weights one balanced region: chunks read equally many bytes.

    Args:
        work: for each segment (tiles, bytes per tile, body called once with the tile number).

    The segments lie one after the other on a line of bytes that is cut into equal chunks; a tile
    belongs to the chunk in which it starts. The pool gives each thread consecutive chunks, so a
    thread reads consecutive tiles.
    """
    whole = sum(n * size for n, size, _ in work)
    chunks = min(CHUNKS, sum(n for n, _, _ in work))
    with T.parallel(chunks) as chunk:
        start = 0
        for count, size, body in work:
            first = T.bind(_first_tile(chunk, chunks, whole, start, size, count))
            last = T.bind(_first_tile(chunk + 1, chunks, whole, start, size, count))
            with T.serial(last - first) as i:
                body(first + i)
            start += count * size


def _first_tile(chunk: Expr, chunks: int, whole: int, start: int, size: int, count: int) -> Expr:
    """First tile of a segment that starts in or after the chunk."""
    edge = T.truncdiv(wide(chunk) * T.int64(whole), T.int64(chunks)) - T.int64(start)
    tile = T.truncdiv(T.max(edge, T.int64(0)) + T.int64(size - 1), T.int64(size))
    return T.Cast("int32", T.min(tile, T.int64(count)))
