"""How the tiles of several weights become one balanced parallel region."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import Expr

UNIT = 64
"""Costs are counted in units of 64 bytes, so that products with chunk numbers stay in 32 bits."""
CHUNKS = 512
"""Most chunks of a region: several for each thread of any machine we know."""


def parallel_by_bytes(work: Sequence[tuple[int, int, Callable[[Expr], None]]]) -> None:
    """Run every tile of every segment once, in chunks that read equally many bytes.

    Args:
        work: for each segment (tiles, bytes per tile, body called once with the tile number).

    The segments lie one after the other on a line of bytes that is cut into equal chunks; a tile
    belongs to the chunk in which it starts. The pool gives each thread consecutive chunks, so a
    thread reads consecutive tiles.
    """
    costs = [max(1, size // UNIT) for _, size, _ in work]
    whole = sum(n * c for (n, _, _), c in zip(work, costs, strict=True))
    chunks = min(CHUNKS, sum(n for n, _, _ in work), 2**31 // (whole + 1))
    with T.parallel(chunks) as chunk:
        start = 0
        for (count, _, body), cost in zip(work, costs, strict=True):
            first = T.bind(_first_tile(chunk, chunks, whole, start, cost, count))
            last = T.bind(_first_tile(chunk + 1, chunks, whole, start, cost, count))
            with T.serial(last - first) as i:
                body(first + i)
            start += count * cost


def _first_tile(
    chunk: Expr, chunks: int, whole: int, start: int, cost: int, count: int
) -> Expr:
    """First tile of a segment that starts at or after the chunk's first unit."""
    edge = T.truncdiv(chunk * whole, T.int32(chunks)) - start
    return T.max(0, T.min(count, T.truncdiv(T.max(edge, 0) + (cost - 1), T.int32(cost))))
