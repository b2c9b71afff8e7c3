"""The expert sublayer in one kernel: chosen experts and the shared one, clamped SwiGLU (spec 4.11).

    y[s] = sum_a weights[s, a] * w2[e] f(w1[e] x[s], w3[e] x[s]) + s2 f(s1 x[s], s3 x[s])

The routing weight is multiplied into f, so the down projections are plain sums, always in the same
order: results depend neither on the number of threads nor on how a prompt is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.activations import Rows, Vectors, weight_of
from firstlight.targets.cpu.kernels.gemv import x_copy
from firstlight.targets.cpu.kernels.layouts import PLAIN, TILE
from firstlight.targets.cpu.kernels.linear import store_rows
from firstlight.targets.cpu.kernels.micro import Weight, swiglu
from firstlight.targets.cpu.kernels.panel import (
    STRIP,
    Strip,
    each_tile,
    part_buffer,
)
from firstlight.targets.cpu.kernels.schedule import parallel_by_bytes, parallel_few
from firstlight.targets.cpu.kernels.vecmath import Expr, get, put, spread

STREAM = 32768
"""Bytes of a down projection that are read from one expert after the other, if `LEAST` allows: from
4 KB here and there a core of Zen 5 reads at 0.65 of its speed."""

LEAST = 8
"""Fewest pieces of a down projection, if it has so many tiles."""


def expert_ffn(
    name: str, experts: int, chosen: int, d: int, inner: int, codecs: Sequence[str], limit: float,
    tokens: int, lanes: int, way: str = "",
) -> Kernel:  # fmt: skip
    """x [S, D], index [S, A] i32, weights [S, A], w1 w3 w2 s1 s3 s2 -> y [S, D].

    Args:
        experts, chosen: E routed experts, A of them for each token.
        d, inner: D and I; w1, w3 are [E, I, D], w2 [E, D, I], s1, s3 [I, D], s2 [D, I].
        codecs: of w1, w3, w2, s1, s3, s2.
        limit: clamp of gate and up.
        tokens: 1 for the matrix-vector version (S is 1), else the largest S.
        lanes: f32 per vector, 8 or 16.
        way: a key of `activations.WAYS`: how activations are prepared.
    """
    up, down = (inner, d), (d, inner)
    shapes = [(experts, *up), (experts, *up), (experts, *down), (1, *up), (1, *up), (1, *down)]
    weights = [weight_of(codec, *shape, way) for codec, shape in zip(codecs, shapes, strict=True)]
    names = [w.pointers(n) for w, n in zip(weights, "w1 w3 w2 s1 s3 s2".split(), strict=True)]

    def body(x_: Any, index_: Any, gates_: Any, *rest: Any) -> None:
        *pointers, y_, count = rest
        x = T.decl_buffer((count, d), "float32", data=x_)
        index = T.decl_buffer((count * chosen,), "int32", data=index_)
        gates = T.decl_buffer((count * chosen,), "float32", data=gates_)
        y = T.decl_buffer((count, d), "float32", data=y_)
        for weight, own in zip(weights, names, strict=True):
            weight.bind(pointers[: len(own)])
            del pointers[: len(own)]
        if tokens == 1:
            _vector(x, index, gates, weights, y, chosen, limit, lanes, way)
        else:
            _matrix(x, index, gates, weights, y, count, chosen, tokens, limit, lanes, way)

    operands = [("x", "float32"), ("index", "int32"), ("weights", "float32")]
    pointers = [*operands, *(p for own in names for p in own), ("y", "float32")]
    layouts = (None,) * 3 + tuple(w.layout(PLAIN) for w in weights)
    return Kernel(name, prim_func(name, pointers, body), layouts)


# ---- one token


def _vector(
    x: Any, index: Any, gates: Any, weights: Sequence[Weight], y: Any, chosen: int, limit: float,
    lanes: int, way: str,
) -> None:  # fmt: skip
    w1, w3, w2, s1, s3, s2 = weights
    ups = (w1, w3, s1, s3)
    given = Vectors(x_copy(x, 1, w1.k, ups, lanes), 1, ups, lanes, way).fill()
    routed = Vectors(_hidden(w2, chosen, chosen), chosen, [w2], lanes, way)
    shared = Vectors(_hidden(s2, 1, 1), 1, [s2], lanes, way)

    def routed_up(i: Expr) -> None:
        slot = T.bind(T.truncdiv(i, T.int32(w1.tiles)))
        tile = T.bind(i - slot * w1.tiles)
        at = T.bind(index[slot] * w1.tiles + tile)
        scale = T.bind(T.broadcast(gates[slot], lanes))
        _store_swiglu(w1, w3, at, given, limit, scale, routed.x, slot, tile, lanes)

    def shared_up(tile: Expr) -> None:
        _store_swiglu(s1, s3, tile, given, limit, spread(1.0, lanes), shared.x, 0, tile, lanes)

    parallel_by_bytes([
        (chosen * w1.tiles, w1.tile_bytes + w3.tile_bytes, routed_up),
        (s1.tiles, s1.tile_bytes + s3.tile_bytes, shared_up),
    ])  # fmt: skip

    routed.fill()
    shared.fill()

    def down(first: Expr, per: int) -> None:
        """`per` tiles: of each expert in turn, so that its weights are a longer stream."""
        sums = T.alloc_buffer((per * TILE,), "float32")

        def each(body: Callable[[Expr, Expr], None]) -> None:
            with T.serial(T.min(per, w2.tiles - first)) as i:
                body(T.bind(first + i), T.bind(i * TILE))

        def add(values: Sequence[Expr], at: Expr) -> None:
            for half, value in enumerate(values):
                place = T.bind(at + half * lanes)
                put(sums, get(sums, place, lanes=lanes) + value, place, lanes=lanes)

        def start(tile: Expr, at: Expr) -> None:
            for half, value in enumerate(shared.tile(s2, tile)):
                put(sums, value, at + half * lanes, lanes=lanes)

        def routed_down(slots: Sequence[Expr]) -> None:
            def some(tile: Expr, at: Expr) -> None:
                parts = [(w2, T.bind(index[slot] * w2.tiles + tile), slot) for slot in slots]
                for values in routed.tiles(parts):
                    add(values, at)

            each(some)

        each(start)
        with T.serial(chosen // 2) as pair:
            routed_down([T.bind(2 * pair), T.bind(2 * pair + 1)])
        if chosen % 2:
            routed_down([T.int32(chosen - 1)])
        each(lambda tile, at: store_rows(y, 0, 0, tile, w2.n, [
            get(sums, at + h, lanes=lanes) for h in range(0, TILE, lanes)], lanes))

    per = min(-(-STREAM // w2.tile_bytes), max(w2.tiles // LEAST, 1))
    pieces = -(-w2.tiles // per)
    with parallel_few(pieces, pieces) as piece:
        down(T.bind(piece * per), per)


def _hidden(down: Weight, rows: int, used: Expr) -> Any:
    """Buffer [rows, ..], of which `used` are in use, for f as a down projection reads it: zero
    behind its tiles."""
    written = -(-down.k // TILE) * TILE
    width = max(written, down.padded)
    hidden = T.alloc_buffer((rows, width), "float32")
    if width > written:
        with T.serial(used) as r, T.serial(width - written) as i:
            T.buffer_store(hidden, T.float32(0), [r, written + i])
    return hidden


def _store_swiglu(
    gate: Weight, up: Weight, at: Expr, x: Vectors, limit: float, scale: Expr, hidden: Any,
    row: Expr, tile: Expr, lanes: int,
) -> None:  # fmt: skip
    """One tile of f = swiglu(gate x, up x) * scale. Rows behind the matrix give zeros."""
    gated, upped = ([T.bind(v) for v in values]
                    for values in x.tiles([(gate, at, 0), (up, at, 0)]))
    for half, (g, u) in enumerate(zip(gated, upped, strict=True)):
        value = swiglu(g, u, limit, lanes) * scale
        put(hidden, value, row, tile * TILE + half * lanes, lanes=lanes)


# ---- many tokens


def _matrix(
    x: Any, index: Any, gates: Any, weights: Sequence[Weight], y: Any, count: Expr, chosen: int,
    tokens: int, limit: float, lanes: int, way: str,
) -> None:  # fmt: skip
    w1, w3, w2, s1, s3, s2 = weights
    most = tokens * chosen
    routed, shared = (
        Rows(_hidden(w, rows, used), rows, [w], lanes, way, used)
        for w, rows, used in ((w2, most, count * chosen), (s2, tokens, count)))
    groups = _Groups(index, gates, count, chosen, w1.count, tokens)
    given = Rows.given(x, tokens, w1.k, (w1, w3, s1, s3), lanes, way, count)

    def shared_up(i: Expr) -> None:
        _swiglu_strip(
            s1, s3, i, 0, given, lambda r: r, count, tokens, limit, lanes,
            lambda r, value, at: put(shared.x, value, r, at, lanes=lanes),
        )  # fmt: skip

    per = _pair_tiles(w1)
    parallel_by_bytes([(-(-s1.tiles // per), (s1.tile_bytes + s3.tile_bytes) * per, shared_up)])

    # The tokens of an expert stay in the second-level cache for all of its strips.
    strips = -(-w1.tiles // per)
    with T.parallel(groups.active[0] * strips) as i:
        which = T.bind(T.truncdiv(i, T.int32(strips)))
        strip, expert = T.bind(i - which * strips), T.bind(groups.experts[which])
        first = T.bind(groups.starts[expert])

        def keep(r: Expr, value: Expr, at: Expr) -> None:
            gate = T.broadcast(groups.gates[first + r], lanes)
            put(routed.x, value * gate, first + r, at, lanes=lanes)

        size = T.bind(groups.starts[expert + 1] - first)
        _swiglu_strip(
            w1, w3, strip, expert, given, lambda r: groups.tokens[first + r], size, most, limit,
            lanes, keep,
        )  # fmt: skip

    _down(w2, s2, groups, routed.fill(), shared.fill(), y, count, most, lanes)


class _Groups:
    """Choices sorted by expert; the sort is stable.

    `tokens` and `gates` [S*A], those of expert e from starts[e] to starts[e+1]; `experts` the
    experts that were chosen at all, in order; `active[0]` how many those are.
    """

    def __init__(self, index: Any, gates: Any, count: Expr, chosen: int, experts: int,
                 tokens: int) -> None:  # fmt: skip
        self.starts = T.alloc_buffer((experts + 2,), "int32")
        self.tokens = T.alloc_buffer((tokens * chosen,), "int32")
        self.gates = T.alloc_buffer((tokens * chosen,), "float32")
        self.experts = T.alloc_buffer((experts,), "int32")
        self.active = T.alloc_buffer((1,), "int32")
        starts, zero = self.starts, T.int32(0)
        with T.serial(experts + 2) as e:
            T.buffer_store(starts, zero, [e])
        # Counts land two places up, so that after the prefix sum starts[e + 1] is where e begins
        # and, moved by every choice placed, ends where e ends.
        with T.serial(count * chosen) as i:
            T.buffer_store(starts, starts[index[i] + 2] + 1, [index[i] + 2])
        T.buffer_store(self.active, zero, [0])
        with T.serial(experts) as e:
            with T.If(starts[e + 2] > 0), T.Then():
                T.buffer_store(self.experts, e, [self.active[0]])
                T.buffer_store(self.active, self.active[0] + 1, [0])
            T.buffer_store(starts, starts[e + 1] + starts[e + 2], [e + 2])
        with T.serial(count * chosen) as i:
            place = T.bind(starts[index[i] + 1])
            T.buffer_store(self.tokens, T.truncdiv(i, T.int32(chosen)), [place])
            T.buffer_store(self.gates, gates[i], [place])
            T.buffer_store(starts, place + 1, [index[i] + 1])


def _pair_tiles(weight: Weight) -> int:
    """Tiles of gate and as many of up in one strip."""
    return min(STRIP // 2, weight.tiles)


def _swiglu_strip(
    gate: Weight, up: Weight, strip: Expr, expert: Expr, x: Rows, row: Callable[[Expr], Expr],
    count: Expr, most: int, limit: float, lanes: int, keep: Callable[[Expr, Expr, Expr], None],
) -> None:  # fmt: skip
    """swiglu(gate x, up x) for one strip of rows and `count` tokens; keep(r, vector, column)."""
    per = _pair_tiles(gate)
    first, base = T.bind(strip * per), T.bind(expert * gate.tiles)
    part = part_buffer(most, 2 * per)
    pair = [Strip(w, per, base + first, base + (gate.tiles - 1)) for w in (gate, up)]

    def joined(r: Expr, tile: Expr, column: int) -> None:
        for h in range(0, TILE, lanes):
            g = get(part, r, column + h, lanes=lanes)
            u = get(part, r, per * TILE + column + h, lanes=lanes)
            keep(r, swiglu(g, u, limit, lanes), tile * TILE + h)

    x.multiply(pair, row, count, part, lambda r: each_tile(
        gate, per, first, lambda t, c: joined(r, t, c)))


def _down(
    w2: Weight, s2: Weight, groups: _Groups, routed: Rows, shared: Rows, y: Any, count: Expr,
    most: int, lanes: int,
) -> None:  # fmt: skip
    """y = s2 shared, then += w2[e] routed in the order of experts; a strip of y has one owner."""
    per = min(STRIP, w2.tiles)

    def keep(row: Expr, tile: Expr, part: Any, r: Expr, column: int, add: bool) -> None:
        values = [get(part, r, column + h, lanes=lanes) for h in range(0, TILE, lanes)]
        store_rows(y, row, 0, tile, w2.n, values, lanes, add)

    with T.parallel(-(-w2.tiles // per)) as strip:
        first = T.bind(strip * per)
        part = part_buffer(most, per)
        whole = Strip(s2, per, first, s2.tiles - 1)
        shared.multiply([whole], lambda r: r, count, part, lambda r: each_tile(
            s2, per, first, lambda t, c: keep(r, t, part, r, c, False)))
        with T.serial(groups.active[0]) as j:
            expert = T.bind(groups.experts[j])
            start = T.bind(groups.starts[expert])
            size = T.bind(groups.starts[expert + 1] - start)
            base = T.bind(expert * w2.tiles)
            piece = Strip(w2, per, base + first, base + (w2.tiles - 1))

            def add(r: Expr, start: Expr = start) -> None:
                row = T.bind(groups.tokens[start + r])
                each_tile(w2, per, first, lambda t, c: keep(row, t, part, r, c, True))

            routed.multiply([piece], lambda r, start=start: start + r, size, part, add)
