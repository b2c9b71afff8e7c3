"""The indexer (spec 4.8): score the visible entries of each token and select the best.

Selection compares integers that are ordered like the scores, so its result is unique: the order of
work, and with it the number of threads, cannot change it. Radix steps of eight bits find the k-th
score, one pass collects what is above it, and a stable radix sort puts that in descending order.
Where a token is alone, threads first drop what cannot be among the k best: they count the ranks of
their keys by the leading bits, and keep those up to the bits that the k-th has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.heads import VISITS, Heads
from firstlight.targets.cpu.kernels.rows import StoredRows, hadamard
from firstlight.targets.cpu.kernels.schedule import parallel_few
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    ceil_div,
    clear,
    fetch,
    flat,
    get,
    hold,
    kind,
    put,
    spread,
    sweep,
    totals,
    tree,
    wide,
)

DIGIT = 256
"""Values of one radix step."""

GROUP = 24
"""Keys that parts have multiples of: whole register tiles of 6, 8 or 12."""

FAR = 4
"""Tiles that keys are fetched ahead."""

PARTS = 32
"""Most parts of the keys that threads work on."""

LEAST = 20
"""Fewest groups of a part: counting its ranks costs as much as some hundred scores."""

LEADING = 11
"""Bits of a rank that are counted first: sign, exponent and two bits, steps of an eighth to a
quarter."""


def index_select(
    name: str, *, heads: int, width: int, ratio: int, capacity: int, k: int, scale: float,
    head_scale: float, tokens: int = 0, codec: str = "f32", lanes: int = 8,
) -> Kernel:  # fmt: skip
    """q[S,HI,cI], a[S,HI], keys, slot, positions[S] -> idx[S,k] i32, best first, -1 fills up.

    score = sum_h a_h * head_scale * relu(scale * <q_h, K_w>) over w < (position + 1) // ratio;
    equal scores go to the lower index.

    Args:
        ratio, capacity: tokens per key and rows of the keys of a slot.
        tokens: most tokens of a call; of 1 the keys are shared among the threads.
        codec: of the keys; queries are transformed as the keys are.
    """
    block, form = Heads(heads, width, lanes), StoredRows(codec, width, lanes)
    room = ceil_div(capacity, GROUP) * GROUP

    def body(q_: Expr, a_: Expr, keys_: Expr, slot_: Expr, positions_: Expr, idx_: Expr,
             S: Expr) -> None:  # fmt: skip
        q, a, keys, idx = flat(q_), flat(a_), form.flat(keys_), flat(idx_, "int32")
        positions = flat(positions_, "int32")
        base = T.bind(wide(flat(slot_, "int32")[0]) * (capacity * form.size))
        scorer = _Scorer(block, form, q, a, keys, base, scale, head_scale)

        def visible(token: Expr) -> Expr:
            return hold(T.min((positions[token] + 1) // ratio, capacity), 1, "int32")

        if tokens == 1:
            n, ranks = visible(T.int32(0)), T.alloc_buffer((room,), "uint32")
            groups = hold(ceil_div(n, GROUP), 1, "int32")
            most = T.max(T.min(PARTS, 2 * ceil_div(groups, 2 * LEAST)), 1)
            share = hold(ceil_div(groups, most) * GROUP, 1, "int32")
            parts = _Parts(n, share, hold(ceil_div(n, T.max(share, 1)), 1, "int32"), ranks, room)
            panel, gains = scorer.prepare(T.int32(0))
            with parallel_few(parts.number, PARTS) as part:
                scorer.score(panel, gains, *parts.span(part), ranks)
                with T.If(n > k), T.Then():
                    parts.count(part)
            with T.If(n > k):
                with T.Then():
                    _select(ranks, parts.drop(k), k, idx, T.int64(0), parts.places)
                with T.Else():
                    _select(ranks, n, k, idx, T.int64(0))
            return
        with T.parallel(S) as token:
            n, ranks = visible(token), T.alloc_buffer((room,), "uint32")
            panel, gains = scorer.prepare(token)
            scorer.score(panel, gains, T.int32(0), n, ranks)
            _select(ranks, n, k, idx, T.bind(wide(token) * k))

    pointers = [("q", "float32"), ("a", "float32"), ("keys", form.dtype), ("slot", "int32"),
                ("positions", "int32"), ("idx", "int32")]  # fmt: skip
    return Kernel(name, prim_func(name, pointers, body), (None,) * 5)


@dataclass(frozen=True)
class _Scorer:
    block: Heads
    form: StoredRows
    q: Any
    a: Any
    keys: Any
    base: Expr
    scale: float
    head_scale: float

    def prepare(self, token: Expr) -> tuple[Any, Any]:
        """Packed queries, and head weights (zero for heads that fill up a block)."""
        block, size = self.block, self.block.block
        panel = T.alloc_buffer((block.blocks * block.panel_size,), "float32")
        gains = T.alloc_buffer((block.blocks * size,), "float32")
        q, start = self.q, T.bind(wide(token) * (block.heads * block.width))
        if self.form.form.rotated:
            q, start = self._rotated(start), T.int64(0)
        with T.serial(block.blocks) as part:
            block.pack(q, start, part, panel, T.bind(part * block.panel_size), 1.0)
        with T.serial(block.blocks * size) as h:
            gain = T.if_then_else(
                h < block.heads,
                self.a[wide(token) * block.heads + h] * T.float32(self.head_scale), T.float32(0),
            )  # fmt: skip
            put(gains, gain, h)
        return panel, gains

    def _rotated(self, start: Expr) -> Any:
        block = self.block
        turned = T.alloc_buffer((block.heads * block.width,), "float32")
        sweep(block.heads * block.width, block.lanes,
              lambda i, n: put(turned, get(self.q, start + i, lanes=n), i, lanes=n))
        with T.serial(block.heads) as head:
            hadamard(turned, T.bind(head * block.width), block.width, block.lanes)
        return turned

    def score(self, panel: Any, gains: Any, first: Expr, last: Expr, ranks: Any) -> None:
        """Ranks of keys first .. last - 1; those that fill up a tile are of zeros.

        Float32 keys are read where they are. Others are decoded a tile ahead, while one is scored:
        that is work for other units. Both are fetched further ahead.
        """
        block, form = self.block, self.form
        number, stride = block.tile, -(-form.width // 8) * 8 + 16
        plain = form.codec == "f32"
        rows = T.alloc_buffer((2 * number * stride,), "float32")

        def key(row: Expr) -> Expr:
            return T.bind(self.base + wide(row) * form.size)

        def stage(row: Expr, place: Expr) -> None:
            """Zeros fill up a tile: what else lies there may be subnormal, and slow."""
            at = T.bind(place * stride)
            with T.If(row < last):
                with T.Then():
                    form.load(self.keys, key(row), rows, at)
                with T.Else():
                    clear(rows, at, form.width, block.lanes)

        def score(start: Expr, source: Any, bases: Sequence[Expr], place: Expr) -> None:
            def ahead(visit: Expr) -> None:
                following = T.bind(start + number + visit)
                with T.If(visit < number), T.Then():
                    stage(following, T.bind(place + visit))

            far, steps = key(start + FAR * number), block.blocks * form.width
            apart = -(-number * form.size // steps)
            value = rank(self._tile(panel, gains, source, bases, None if plain else ahead,
                                    lambda step: fetch(self.keys[far + step * apart], 2)),
                         block.lanes)
            done = 0
            for size in (8, 4, 2):      # a tile's own only: what follows is another part's
                if number - done >= size:
                    own = T.Shuffle([value], list(range(done, done + size)))
                    put(ranks, own, start + done, lanes=size)
                    done += size

        def staged(start: Expr, half: Expr) -> None:
            bases = [T.bind((half * number + r) * stride) for r in range(number)]
            score(start, rows, bases, T.bind((1 - half) * number))

        def direct(start: Expr) -> None:
            with T.If(start + number <= last):
                with T.Then():
                    base = key(start)
                    bases = [T.bind(base + r * form.size) for r in range(number)]
                    score(start, self.keys, bases, T.int32(0))
                with T.Else():
                    with T.serial(number) as r:
                        stage(start + r, r)
                    staged(start, T.int32(0))

        if not plain:
            with T.serial(number) as r:
                stage(first + r, r)
        with T.serial(ceil_div(last - first, number)) as tile:
            start = T.bind(first + tile * number)
            if plain:
                direct(start)
            else:
                staged(start, T.bind(tile % 2))

    def _tile(self, panel: Any, gains: Any, rows: Any, bases: Sequence[Expr],
              ahead: Callable[[Expr], None] | None, line: Callable[[Expr], None]) -> Expr:
        """Scores of a register tile of rows, a lane each. In between `ahead` is called for each of
        them, and `line` with the number of the multiplication, of all heads' blocks."""
        block, lanes = self.block, self.block.lanes
        sums = [Cell(spread(0.0, lanes), lanes) for _ in bases]
        with T.serial(block.blocks) as part:
            def visit(number: Expr, part: Expr = part) -> Callable[[Expr], None]:
                if ahead:
                    with T.If(part == 0), T.Then():
                        ahead(number)
                first = T.bind(part * block.width + number * (block.width // VISITS))
                return lambda k: line(first + k)

            products = block.products(panel, T.bind(part * block.panel_size), rows, bases, visit)
            weights = [T.bind(get(gains, part * block.block + i * lanes, lanes=lanes))
                       for i in range(block.results)]  # fmt: skip
            for total, line in zip(sums, products, strict=True):
                total.value = total.value + self._weigh(line, weights)
        return totals([total.value for total in sums], lanes)

    def _weigh(self, products: Sequence[Expr], weights: Sequence[Expr]) -> Expr:
        lanes = self.block.lanes
        return tree([
            T.max(v * spread(self.scale, lanes), spread(0.0, lanes)) * w
            for v, w in zip(products, weights, strict=True)
        ])  # fmt: skip


class _Parts:
    """The keys of one token in parts of `share`, and which of them may be among the k best."""

    def __init__(self, n: Expr, share: Expr, number: Expr, ranks: Any, room: int) -> None:
        self.n, self.share, self.number, self.ranks = n, share, number, ranks
        self.places = T.alloc_buffer((room,), "int32")
        self._counts = T.alloc_buffer((PARTS << LEADING,), "int32")
        self._least, self._kept = (T.alloc_buffer((PARTS,), "int32") for _ in range(2))

    def span(self, part: Expr) -> tuple[Expr, Expr]:
        """First key, and the one after the last."""
        first = T.bind(part * self.share)
        return first, hold(T.min(first + self.share, self.n), 1, "int32")

    def count(self, part: Expr) -> None:
        """How many ranks of a part have which leading bits, and the least of those."""
        base, least = T.bind(part << LEADING), Cell(T.int32(1 << LEADING), dtype="int32")
        sweep(1 << LEADING, 8, lambda i, n: put(
            self._counts, spread(T.int32(0), n), base + i, lanes=n))
        with T.serial(*self.span(part)) as i:
            bits = T.bind(_leading(self.ranks[i]))
            put(self._counts, self._counts[base + bits] + 1, base + bits)
            least.value = T.min(least.value, bits)
        put(self._least, least.value, part)

    def drop(self, k: int) -> Expr:
        """Move the ranks up to the bits of the k-th, and their `places`, to the front; how many."""
        bits, below = Cell(T.int32(1 << LEADING), dtype="int32"), Cell(T.int32(0), dtype="int32")
        with T.serial(self.number) as part:
            bits.value = T.min(bits.value, self._least[part])
        bits.value = bits.value - 1
        with T.While(below.value < k):
            bits.value = bits.value + 1
            with T.serial(self.number) as part:
                below.value = below.value + self._counts[(part << LEADING) + bits.value]
        last = hold(bits.value, 1, "int32")
        with parallel_few(self.number, PARTS) as part:
            first, end = self.span(part)
            kept = Cell(T.int32(0), dtype="int32")
            with T.serial(first, end) as i:
                value = T.bind(self.ranks[i])
                put(self.ranks, value, first + kept.value)
                put(self.places, i, first + kept.value)
                kept.value = kept.value + T.Cast("int32", _leading(value) <= last)
            put(self._kept, kept.value, part)
        found = Cell(T.int32(0), dtype="int32")
        with T.serial(self.number) as part, T.serial(self._kept[part]) as i:
            for buffer in (self.ranks, self.places):
                put(buffer, buffer[part * self.share + i], found.value)
            found.value = found.value + 1
        return hold(found.value, 1, "int32")


def _leading(value: Expr) -> Expr:
    return T.Cast("int32", T.shift_right(value, T.uint32(32 - LEADING)))


def rank(score: Expr, lanes: int = 1) -> Expr:
    """A uint32 that is smaller for larger scores; +0 and -0 are equal."""
    score, zero, top = hold(score, lanes), spread(0.0, lanes), spread(T.uint32(1 << 31), lanes)
    score = T.Select(score == zero, zero, score)
    bits = hold(T.reinterpret(kind("uint32", lanes), score), lanes, "uint32")
    return T.Select(bits >= top, bits, bits ^ spread(T.uint32((1 << 31) - 1), lanes))


def _digit(value: Expr, step: Expr) -> Expr:
    """Eight bits of a rank; step 0 is the lowest."""
    shift = T.Cast("uint32", step * 8)
    return T.Cast("int32", T.bitwise_and(T.shift_right(value, shift), T.uint32(DIGIT - 1)))


def _select(ranks: Any, n: Expr, k: int, idx: Any, out: Expr, places: Any = None) -> None:
    """idx[out ..] = places of the k lowest of ranks[0 .. n - 1] in ascending order, then -1.

    The place of ranks[i] is i, or places[i], ascending.
    """
    def place(i: Expr) -> Expr:
        return i if places is None else places[i]

    chosen = [(T.alloc_buffer((k,), "uint32"), T.alloc_buffer((k,), "int32")) for _ in range(2)]
    count = T.bind(T.min(n, k))
    with T.If(n > k):
        with T.Then():
            _pick(ranks, n, k, *chosen[0], place)
        with T.Else(), T.serial(n) as i:
            put(chosen[0][0], ranks[i], i)
            put(chosen[0][1], place(i), i)
    _sort(chosen, count)
    with T.serial(k) as i:
        put(idx, T.if_then_else(i < count, chosen[0][1][i], -1), out + i)


def _pick(ranks: Any, n: Expr, k: int, picked: Any, places: Any,
          place: Callable[[Expr], Expr]) -> None:
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
                put(places, place(i), found.value)
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
