"""The indexer (spec 4.8): score the visible entries of each token and select the best.

Selection compares integers that are ordered like the scores, so its result is unique: the order of
work, and with it the number of threads, cannot change it. Radix steps of eight bits find the k-th
score, one pass collects what is above it, and a stable radix sort puts that in descending order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.heads import Heads
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    across,
    add,
    ceil_div,
    flat,
    get,
    hold,
    put,
    spread,
    tree,
    wide,
)

DIGIT = 256
"""Values of one radix step."""


def index_select(
    name: str, *, heads: int, width: int, ratio: int, capacity: int, k: int, scale: float,
    head_scale: float, decode_only: bool = False, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """q[S,HI,cI], a[S,HI], keys, slot, positions[S] -> idx[S,k] i32, best first, -1 fills up.

    score = sum_h a_h * head_scale * relu(scale * <q_h, K_w>) over w < (position + 1) // ratio;
    equal scores go to the lower index.

    Args:
        ratio, capacity: tokens per key and rows of the keys of a slot.
        decode_only: S is always 1, and the keys are shared among the threads.
    """
    block = Heads(heads, width, lanes)
    limit = block.padded(capacity)

    def body(q_: Expr, a_: Expr, keys_: Expr, slot_: Expr, positions_: Expr, idx_: Expr,
             S: Expr) -> None:  # fmt: skip
        q, a, keys, idx = flat(q_), flat(a_), flat(keys_), flat(idx_, "int32")
        positions = flat(positions_, "int32")
        base = T.bind(wide(flat(slot_, "int32")[0]) * (capacity * width))
        scorer = _Scorer(block, q, a, keys, base, scale, head_scale)

        def visible(token: Expr) -> Expr:
            return T.bind(T.min((positions[token] + 1) // ratio, capacity))

        if decode_only:
            n = visible(T.int32(0))
            panel, gains, ranks = scorer.prepare(T.int32(0), limit)
            with T.parallel(ceil_div(n, block.tile)) as tile:
                scorer.score(panel, gains, tile, n, ranks)
            _select(ranks, n, k, idx, T.int64(0))
            return
        with T.parallel(S) as token:
            n = visible(token)
            panel, gains, ranks = scorer.prepare(token, limit)
            with T.serial(ceil_div(n, block.tile)) as tile:
                scorer.score(panel, gains, tile, n, ranks)
            _select(ranks, n, k, idx, T.bind(wide(token) * k))

    pointers = [("q", "float32"), ("a", "float32"), ("keys", "float32"), ("slot", "int32"),
                ("positions", "int32"), ("idx", "int32")]  # fmt: skip
    return Kernel(name, prim_func(name, pointers, body), (None,) * 5)


@dataclass(frozen=True)
class _Scorer:
    block: Heads
    q: Any
    a: Any
    keys: Any
    base: Expr
    scale: float
    head_scale: float

    def prepare(self, token: Expr, limit: int) -> tuple[Any, Any, Any]:
        """Packed queries, head weights (zero for heads that fill up a block), room for ranks."""
        block, size = self.block, self.block.block
        panel = T.alloc_buffer((block.blocks * block.panel_size,), "float32")
        gains = T.alloc_buffer((block.blocks * size,), "float32")
        ranks = T.alloc_buffer((limit,), "uint32")
        start = T.bind(wide(token) * (block.heads * block.width))
        with T.serial(block.blocks) as part:
            block.pack(self.q, start, part, panel, T.bind(part * block.panel_size), 1.0)
        with T.serial(block.blocks * size) as h:
            gain = T.if_then_else(
                h < block.heads,
                self.a[wide(token) * block.heads + h] * T.float32(self.head_scale), T.float32(0),
            )  # fmt: skip
            put(gains, gain, h)
        return panel, gains, ranks

    def score(self, panel: Any, gains: Any, tile: Expr, n: Expr, ranks: Any) -> None:
        """Ranks of one tile of keys; rows past `n` repeat the last."""
        block, lanes = self.block, self.block.lanes
        first = T.bind(tile * block.tile)
        bases = [T.bind(self.base + wide(T.min(first + r, n - 1)) * block.width)
                 for r in range(block.tile)]  # fmt: skip
        sums = [Cell(spread(0.0, lanes), lanes) for _ in bases]
        with T.serial(block.blocks) as part:
            place = T.bind(part * block.panel_size)
            products = block.products(panel, place, self.keys, bases)
            weights = [T.bind(get(gains, part * block.block + i * lanes, lanes=lanes))
                       for i in range(block.vectors)]  # fmt: skip
            for total, line in zip(sums, products, strict=True):
                total.value = total.value + self._weigh(line, weights)
        for r, total in enumerate(sums):
            put(ranks, rank(across(total.value, lanes, add)), first + r)

    def _weigh(self, products: Sequence[Expr], weights: Sequence[Expr]) -> Expr:
        lanes = self.block.lanes
        return tree([
            T.max(v * spread(self.scale, lanes), spread(0.0, lanes)) * w
            for v, w in zip(products, weights, strict=True)
        ])  # fmt: skip


def rank(score: Expr) -> Expr:
    """A uint32 that is smaller for larger scores; +0 and -0 are equal."""
    score = hold(score)
    score = T.Select(score == T.float32(0), T.float32(0), score)
    bits = hold(T.reinterpret("uint32", score), dtype="uint32")
    return T.Select(bits >= T.uint32(1 << 31), bits, bits ^ T.uint32((1 << 31) - 1))


def _digit(value: Expr, step: Expr) -> Expr:
    """Eight bits of a rank; step 0 is the lowest."""
    shift = T.Cast("uint32", step * 8)
    return T.Cast("int32", T.bitwise_and(T.shift_right(value, shift), T.uint32(DIGIT - 1)))


def _select(ranks: Any, n: Expr, k: int, idx: Any, out: Expr) -> None:
    """idx[out ..] = places of the k lowest of ranks[0 .. n - 1] in ascending order, then -1."""
    chosen = [(T.alloc_buffer((k,), "uint32"), T.alloc_buffer((k,), "int32")) for _ in range(2)]
    count = T.bind(T.min(n, k))
    with T.If(n > k):
        with T.Then():
            _pick(ranks, n, k, *chosen[0])
        with T.Else(), T.serial(n) as i:
            put(chosen[0][0], ranks[i], i)
            put(chosen[0][1], i, i)
    _sort(chosen, count)
    with T.serial(k) as i:
        put(idx, T.if_then_else(i < count, chosen[0][1][i], -1), out + i)


def _pick(ranks: Any, n: Expr, k: int, picked: Any, places: Any) -> None:
    """The k lowest ranks and their places, in the order of places; n > k."""
    counts = T.alloc_buffer((DIGIT,), "int32")
    prefix, mask = Cell(T.uint32(0), dtype="uint32"), Cell(T.uint32(0), dtype="uint32")
    wanted = Cell(T.int32(k), dtype="int32")  # how many are needed of those equal to the prefix
    with T.serial(4) as turn:
        step = T.bind(3 - turn)
        with T.serial(DIGIT) as d:
            put(counts, T.int32(0), d)
        with T.serial(n) as i:
            with T.If(T.bitwise_and(ranks[i], mask.value) == prefix.value), T.Then():
                d = T.bind(_digit(ranks[i], step))
                put(counts, counts[d] + 1, d)
        digit, below = Cell(T.int32(0), dtype="int32"), Cell(T.int32(0), dtype="int32")
        with T.While(below.value + counts[digit.value] < wanted.value):
            below.value = below.value + counts[digit.value]
            digit.value = digit.value + 1
        wanted.value = wanted.value - below.value
        shift = T.bind(T.Cast("uint32", step * 8))
        prefix.value = T.bitwise_or(
            prefix.value, T.shift_left(T.Cast("uint32", digit.value), shift)
        )
        mask.value = T.bitwise_or(mask.value, T.shift_left(T.uint32(DIGIT - 1), shift))
    found = Cell(T.int32(0), dtype="int32")
    with T.serial(n) as i:
        value = T.bind(ranks[i])
        with T.If(value <= prefix.value), T.Then():
            equal = T.bind(value == prefix.value)
            with T.If(T.Or(T.Not(equal), wanted.value > 0)), T.Then():
                put(picked, value, found.value)
                put(places, i, found.value)
                found.value = found.value + 1
                wanted.value = wanted.value - T.Cast("int32", equal)


def _sort(pairs: list[tuple[Any, Any]], n: Expr) -> None:
    """Stable ascending sort of pairs[0] by rank; pairs[1] is room for the odd passes."""
    counts = T.alloc_buffer((4 * DIGIT,), "int32")
    with T.serial(4 * DIGIT) as d:
        put(counts, T.int32(0), d)
    with T.serial(n) as i:
        value = T.bind(pairs[0][0][i])
        for step in range(4):
            d = T.bind(_digit(value, step) + step * DIGIT)
            put(counts, counts[d] + 1, d)
    for step in range(4):
        (ranks, places), (new_ranks, new_places) = pairs[step % 2], pairs[1 - step % 2]
        start = Cell(T.int32(0), dtype="int32")
        with T.serial(DIGIT) as d:  # counts -> starts
            own = T.bind(counts[step * DIGIT + d])
            put(counts, start.value, step * DIGIT + d)
            start.value = start.value + own
        with T.serial(n) as i:
            value = T.bind(ranks[i])
            d = T.bind(_digit(value, step) + step * DIGIT)
            to = T.bind(counts[d])
            put(counts, to + 1, d)
            put(new_ranks, value, to)
            put(new_places, places[i], to)
