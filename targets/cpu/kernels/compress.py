"""The compressor (spec 4.7, 5, 6): finished blocks become entries, the rest waits in `partial`.

Three steps, each over independent pieces, so the result does not depend on the number of threads:
pool the blocks that this call finishes (old rows from `partial`, new ones from the operands),
normalise, turn and store the new entries, and only then overwrite rows of `partial`.
"""

from __future__ import annotations

from collections.abc import Callable

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.norms import normalize
from firstlight.targets.cpu.kernels.rope import table
from firstlight.targets.cpu.kernels.rows import StoredRows, hadamard
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import (
    STORAGE,
    Cell,
    Expr,
    decode,
    exp,
    flat,
    get,
    hold,
    put,
    spread,
    sweep,
    wide,
)

LINE = 16
"""Channels pooled together: one cache line of each row."""


def compress(
    name: str, *, ratio: int, width: int, pairs: int, capacity: int, eps: float, overlap: bool,
    tokens: int, ape: str = "f32", norm: str = "f32", codec: str = "f32", lanes: int = 8,
) -> Kernel:  # fmt: skip
    """v[S, w], g[S, w], ape[m, w], norm[c], freqs, partial, entries, slot, pos; states in place.

    Args:
        ratio: m, tokens per block.
        width: c, width of an entry; w is c, or 2c with `overlap`.
        pairs: rope turns the last 2 * pairs values of an entry.
        capacity: rows of `entries` in a slot.
        tokens: most tokens of a call.
        ape, norm: how these weights are stored: f32, bf16 or f16.
        codec: of entries.
    """
    m, c, stored = ratio, width, StoredRows(codec, width, lanes)
    w, rows = (2 * c, 2 * m) if overlap else (c, m)

    def body(v_: Expr, g_: Expr, ape_: Expr, norm_: Expr, freqs_: Expr, partial_: Expr,
             entries_: Expr, slot_: Expr, pos_: Expr, S: Expr) -> None:  # fmt: skip
        v, g, freqs = flat(v_), flat(g_), flat(freqs_)
        place, gain = flat(ape_, STORAGE[ape]), flat(norm_, STORAGE[norm])
        partial, entries = flat(partial_), stored.flat(entries_)
        slot = T.bind(wide(flat(slot_, "int32")[0]))
        pos = T.bind(flat(pos_, "int32")[0])
        partial_base = T.bind(slot * (rows * 2 * w))
        entries_base = T.bind(slot * (capacity * stored.size))
        done = T.bind(pos // m)
        new = T.bind((pos + S) // m - done)

        def value(block: Expr, j: Expr, at: Expr, n: int) -> Expr:
            t = block * m + j
            return T.if_then_else(
                t < pos, get(partial, partial_base + wide(t % rows) * (2 * w) + at, lanes=n),
                get(v, wide(t - pos) * w + at, lanes=n),
            )  # fmt: skip

        def gate(block: Expr, j: Expr, at: Expr, n: int) -> Expr:
            t = block * m + j
            return T.if_then_else(
                t < pos, get(partial, partial_base + wide(t % rows) * (2 * w) + w + at, lanes=n),
                get(g, wide(t - pos) * w + at, lanes=n) + decode(place, ape, j * w + at, n),
            )  # fmt: skip

        def pool(block: Expr, at: Expr, n: int) -> Expr:
            """Softmax over tokens, channel by channel, of the gates; times the values."""
            own = c + at if overlap else at
            top = Cell(gate(block, T.int32(0), own, n), n)
            whole, mixed = Cell(spread(0.0, n), n), Cell(spread(0.0, n), n)

            def both(visit: Callable[[Expr, Expr, Expr], None]) -> None:
                with T.serial(m) as j:
                    visit(block, j, own)
                if overlap:  # first halves of the tokens of the block before
                    with T.If(block > 0), T.Then(), T.serial(m) as j:
                        visit(block - 1, j, at)

            def highest(source: Expr, j: Expr, channel: Expr) -> None:
                top.value = T.max(top.value, gate(source, j, channel, n))

            def gather(source: Expr, j: Expr, channel: Expr) -> None:
                p = hold(exp(gate(source, j, channel, n) - top.value, n), n)
                whole.value = whole.value + p
                mixed.value = T.fma(p, value(source, j, channel, n), mixed.value)

            both(highest)
            both(gather)
            return mixed.value / whole.value

        with T.If(new > 0), T.Then():
            pooled = T.alloc_buffer((-(-tokens // m) * c,), "float32")
            lines = -(-c // LINE)
            with loop(new * lines, tokens * w) as task:
                block, line = T.bind(done + task // lines), T.bind(task % lines * LINE)
                base = T.bind((block - done) * c)

                def write(at: Expr, n: int) -> None:
                    put(pooled, pool(block, at, n), base + at, lanes=n)

                with T.If(line + LINE <= c):
                    with T.Then():
                        with T.serial(LINE // lanes) as i:
                            write(line + i * lanes, lanes)
                    with T.Else():
                        with T.serial(line, c) as at:
                            write(at, 1)
            with loop(new, -(-tokens // m) * c) as i:
                block = T.bind(done + i)
                base = T.bind(i * c)
                normalize(
                    pooled, base, pooled, base, c, eps, lanes,
                    lambda at, n: decode(gain, norm, at, n),
                )  # fmt: skip
                table(freqs, pairs, block * m, lanes).rotate(pooled, base + (c - 2 * pairs), lanes)
                if stored.form.rotated:
                    hadamard(pooled, base, c, lanes)
                stored.store(pooled, base, entries,
                             T.bind(entries_base + wide(block) * stored.size))

        with loop(T.min(S, rows), min(tokens, rows) * w) as i:
            token = T.bind(T.max(S - rows, 0) + i)
            t = T.bind(pos + token)
            base = T.bind(partial_base + wide(t % rows) * (2 * w))

            def keep(at: Expr, n: int) -> None:
                source = wide(token) * w + at
                put(partial, get(v, source, lanes=n), base + at, lanes=n)
                biased = get(g, source, lanes=n) + decode(place, ape, t % m * w + at, n)
                put(partial, biased, base + w + at, lanes=n)

            sweep(w, lanes, keep)

    pointers = [("v", "float32"), ("g", "float32"), ("ape", STORAGE[ape]), ("norm", STORAGE[norm]),
                ("freqs", "float32"), ("partial", "float32"), ("entries", stored.dtype),
                ("slot", "int32"), ("pos", "int32")]  # fmt: skip
    return Kernel(name, prim_func(name, pointers, body), (None,) * 9)
