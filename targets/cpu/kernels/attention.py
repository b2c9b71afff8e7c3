"""Attention over the window and compressed entries, one softmax with a sink (spec 4.6, 4.9, 6.2).

A token's rows come from the ring, this call's own tokens and the entries. With one token (decode)
the ring is written first and each step is shared among the threads; of many tokens (prefill) each
is one task, and the ring is written last. No sum depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.attend import Attend, Rows, scratch_of
from firstlight.targets.cpu.kernels.heads import Heads
from firstlight.targets.cpu.kernels.vecmath import STORAGE, Cell, Expr, flat, get, put, sweep, wide


def hybrid_attention(
    name: str, *, heads: int, width: int, window: int, pairs: int, scale: float, sink: str = "f32",
    entries: str = "none", ratio: int = 0, capacity: int = 0, k: int = 0, decode_only: bool = False,
    lanes: int = 8,
) -> Kernel:  # fmt: skip
    """q[S,H,c], kv[S,c], sink[H], freqs, ring, slot, pos, [entries, [idx[S,k]]] -> o[S,H,c].

    Args:
        heads, width, pairs: H, c, and half the number of turned values.
        window: rows of the ring, n; a query sees n tokens, itself included.
        scale: factor on the products.
        sink: how the sinks are stored: f32, bf16 or f16.
        entries: "none", "all" visible ones, or "picked" by idx (negative: none).
        ratio, capacity: tokens per entry and rows of the entries of a slot.
        k: width of idx.
        decode_only: S is always 1, and the steps are shared among the threads.
    """
    block = Heads(heads, width, lanes)
    if entries not in ("none", "all", "picked"):
        raise ValueError(f"entries={entries!r}: none, all or picked")

    def body(*args: Expr) -> None:
        q_, kv_, sink_, freqs_, ring_, slot_, pos_, *more, o_, S = args
        q, kv, freqs, ring, o = flat(q_), flat(kv_), flat(freqs_), flat(ring_), flat(o_)
        sinks = flat(sink_, STORAGE[sink])
        slot = T.bind(wide(flat(slot_, "int32")[0]))
        pos = T.bind(flat(pos_, "int32")[0])
        ring_base = T.bind(slot * (window * width))
        memory = flat(more[0]) if more else None
        index = flat(more[1], "int32") if len(more) > 1 else None
        entries_base = T.bind(slot * (capacity * width))
        core = Attend(block, scale, sink, sinks, freqs, pairs, q, o)

        def entry_rows(token: Expr) -> list[Rows]:
            if memory is None:
                return []
            if index is None:
                count = T.bind(T.min((pos + token + 1) // ratio, capacity))
                return [Rows(memory, entries_base, count, lambda j: j)]
            at = T.bind(wide(token) * k)
            last = Cell(T.int32(0), dtype="int32")
            with T.serial(k) as j:
                last.value = T.max(last.value, T.Select(index[at + j] >= 0, j + 1, 0))
            return [Rows(memory, entries_base, T.bind(last.value), lambda j: index[at + j])]

        most = {"none": 0, "all": capacity, "picked": k}[entries]
        own = block.padded(window)
        if decode_only:
            _write_ring(ring, ring_base, kv, pos, 0, window, width, lanes)
            seen = Rows(ring, ring_base, T.bind(T.min(pos + 1, window)), lambda j: j)
            scratch = scratch_of(block, block.blocks, own + block.padded(most))
            core.together(scratch, T.int32(0), pos, [seen, *entry_rows(T.int32(0))])
            return

        with T.parallel(S) as token:
            old = T.bind(T.max(T.min(pos, window - 1 - token), 0))
            new = T.bind(T.min(token + 1, window))
            before = Rows(ring, ring_base, old, lambda j: (pos - old + j) % window)
            chunk = Rows(kv, T.int64(0), new, lambda j: token + 1 - new + j)
            scratch = scratch_of(block, 1, 2 * own + block.padded(most))
            core.alone(scratch, token, pos + token, [before, chunk, *entry_rows(token)])
        with T.parallel(T.min(S, window)) as i:
            token = T.bind(T.max(S - window, 0) + i)
            _write_ring(ring, ring_base, kv, pos + token, token, window, width, lanes)

    pointers = [("q", "float32"), ("kv", "float32"), ("sink", STORAGE[sink]), ("freqs", "float32"),
                ("ring", "float32"), ("slot", "int32"), ("pos", "int32")]  # fmt: skip
    pointers += [("entries", "float32")] if entries != "none" else []
    pointers += [("idx", "int32")] if entries == "picked" else []
    operands = len(pointers)
    return Kernel(name, prim_func(name, [*pointers, ("o", "float32")], body), (None,) * operands)


def _write_ring(
    ring: Any, ring_base: Expr, kv: Any, t: Expr, token: Expr, window: int, width: int, lanes: int
) -> None:
    target = T.bind(ring_base + wide(t % window) * width)
    source = T.bind(wide(token) * width)
    sweep(width, lanes, lambda i, n: put(ring, get(kv, source + i, lanes=n), target + i, lanes=n))
