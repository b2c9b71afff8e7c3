"""Attention over the window and compressed entries, one softmax with a sink (spec 4.6, 4.9, 6.2).

A token's rows come from the ring, this call's own tokens and the entries. With one token (decode)
the ring is written first, and threads share the heads, or of many rows the rows; of many tokens
(prefill) each, or some neighbours with few heads, is one task, and the ring is written last. A
query meets its rows in the order of their positions, and those of its own call as the ring will
hold them: neither threads nor chunks change a result.
"""

from __future__ import annotations

from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.attend import Attend
from firstlight.targets.cpu.kernels.heads import Heads
from firstlight.targets.cpu.kernels.norms import normalize
from firstlight.targets.cpu.kernels.rope import table
from firstlight.targets.cpu.kernels.rows import StoredRows
from firstlight.targets.cpu.kernels.sums import Rows
from firstlight.targets.cpu.kernels.vecmath import (
    STORAGE,
    Cell,
    Expr,
    ceil_div,
    decode,
    flat,
    put,
    wide,
)


def hybrid_attention(
    name: str, *, heads: int, width: int, window: int, pairs: int, scale: float, sink: str = "f32",
    entries: str = "none", ratio: int = 0, capacity: int = 0, k: int = 0, tokens: int = 0,
    codecs: tuple[str, str] = ("f32", "f32"), norm: str = "", eps: float = 0.0, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """q[S,H,c], kv[S,c], sink[H], freqs, ring, slot, pos, [entries, [idx[S,k]]] -> o[S,H,c].

    With `norm`, a weight of c behind kv, both come as they were projected: queries are normed and
    turned as they are packed, keys before they are stored.

    Args:
        heads, width, pairs: H, c, and half the number of turned values.
        window: rows of the ring, n; a query sees n tokens, itself included.
        scale: factor on the products.
        sink: how the sinks are stored: f32, bf16 or f16.
        entries: "none", "all" visible ones, or "picked" by idx (negative: none).
        ratio, capacity: tokens per entry and rows of the entries of a slot.
        k: width of idx.
        tokens: most tokens of a call; 1 is shared among the threads.
        codecs: of ring and entries.
        norm, eps: how the weight of the keys' norm is stored, and what is added to mean squares.
    """
    block = Heads(heads, width, lanes)
    recent, old = (StoredRows(codec, width, lanes) for codec in codecs)
    if entries not in ("none", "all", "picked"):
        raise ValueError(f"entries={entries!r}: none, all or picked")

    def body(*args: Expr) -> None:
        q_, kv_, *args = args
        norm_, args = (args[:1], args[1:]) if norm else ([], args)
        sink_, freqs_, ring_, slot_, pos_, *more, o_, S = args
        q, kv, freqs, ring, o = flat(q_), flat(kv_), flat(freqs_), recent.flat(ring_), flat(o_)
        sinks = flat(sink_, STORAGE[sink])
        slot = T.bind(wide(flat(slot_, "int32")[0]))
        pos = T.bind(flat(pos_, "int32")[0])
        ring_base = T.bind(slot * (window * recent.size))
        memory = old.flat(more[0]) if more else None
        index = flat(more[1], "int32") if len(more) > 1 else None
        entries_base = T.bind(slot * (capacity * old.size))
        core = Attend(heads, block, scale, sink, sinks, freqs, pairs, q, o, eps if norm else None)

        def key(token: Expr) -> tuple[Any, Expr]:
            """The key of a token as it is stored: a buffer, and its place there."""
            base = T.bind(wide(token) * width)
            if not norm:
                return kv, base
            turned, weight = T.alloc_buffer((width,), "float32"), flat(norm_[0], STORAGE[norm])
            normalize(kv, base, turned, 0, width, eps, lanes,
                      lambda i, n: decode(weight, norm, i, n))
            table(freqs, pairs, pos + token, lanes).rotate(turned, width - 2 * pairs, lanes)
            return turned, T.int64(0)

        def entry_rows(token: Expr) -> list[Rows]:
            if memory is None:
                return []
            if index is None:
                count = T.bind(T.min((pos + token + 1) // ratio, capacity))
                return [Rows(old, memory, entries_base, count, lambda j: j)]
            picked, count = T.alloc_buffer((k,), "int32"), Cell(T.int32(0), dtype="int32")
            with T.serial(k) as j:
                row = T.bind(index[wide(token) * k + j])
                put(picked, row, count.value)
                count.value = count.value + T.Cast("int32", row >= 0)
            return [Rows(old, memory, entries_base, T.bind(count.value), lambda j: picked[j])]

        def first_entries(token: Expr) -> Expr:
            """How many entries a token sees, if they are the first ones, each once; else -1."""
            if memory is None:
                return T.int32(0)
            if index is None:
                return T.min((pos + token + 1) // ratio, capacity)
            found = T.alloc_buffer((k,), "int32")
            count, different, end = (Cell(T.int32(0), dtype="int32") for _ in range(3))
            with T.serial(k) as j:
                put(found, T.int32(0), j)
            with T.serial(k) as j:
                row = T.bind(index[wide(token) * k + j])
                count.value = count.value + T.Cast("int32", row >= 0)
                with T.If(T.And(row >= 0, row < k)), T.Then():
                    put(found, T.int32(1), row)
            with T.serial(k) as j:
                different.value = different.value + found[j]
                end.value = T.max(end.value, found[j] * (j + 1))
            first = T.And(different.value == count.value, end.value == count.value)
            return T.Select(first, count.value, T.int32(-1))

        def place(t: Expr) -> Expr:
            return T.bind(ring_base + wide(t % window) * recent.size)

        most = {"none": 0, "all": capacity, "picked": k}[entries]
        if tokens == 1:
            recent.store(*key(T.int32(0)), ring, place(pos))
            seen = Rows(recent, ring, ring_base, T.bind(T.min(pos + 1, window)),
                        lambda j: (T.max(pos + 1 - window, 0) + j) % window)
            core.together(T.int32(0), pos, [seen, *entry_rows(T.int32(0))], window + most)
            return

        own = kv
        if norm or recent.codec != "f32":
            own = T.alloc_buffer((tokens * recent.size,), recent.dtype)
            with T.parallel(S) as token:
                recent.store(*key(token), own, wide(token) * recent.size)

        def recent_rows(first: Expr, last: Expr) -> list[Rows]:
            """Of the positions that any of the tokens first .. last sees."""
            before = T.bind(T.max(T.min(pos, window - 1 - first), 0))
            new = T.bind(T.min(last + 1, window + last - first))
            return [Rows(recent, ring, ring_base, before, lambda j: (pos - before + j) % window),
                    Rows(recent, own, T.int64(0), new, lambda j: last + 1 - new + j)]

        def alone(token: Expr) -> None:
            core.alone(token, pos + token, [*recent_rows(token, token), *entry_rows(token)])

        def neighbours(several: Attend, first: Expr) -> None:
            last = T.bind(T.min(first + several.tokens, S) - 1)
            visible = T.alloc_buffer((several.tokens,), "int32")
            largest = Cell(T.int32(-1), dtype="int32")
            with T.serial(several.tokens) as which:
                count = T.bind(first_entries(T.min(first + which, last)))
                put(visible, count, which)
                largest.value = T.max(largest.value, count)
            count = T.bind(largest.value)
            far = None if memory is None else Rows(old, memory, entries_base, count, lambda j: j)
            with T.If(count >= 0), T.Then():
                several.neighbours(first, last, lambda token: pos + token, window,
                                   recent_rows(first, last), far, visible)
            if index is not None:
                with T.serial(last - first + 1) as which, T.If(visible[which] < 0), T.Then():
                    alone(T.bind(first + which))

        several = core.of_neighbours()
        with T.parallel(ceil_div(S, several.tokens)) as task:
            if several.tokens == 1:
                alone(task)
            else:
                neighbours(several, T.bind(task * several.tokens))
        with T.parallel(T.min(S, window)) as i:
            token = T.bind(T.max(S - window, 0) + i)
            recent.copy(own, T.bind(wide(token) * recent.size), ring, place(pos + token))

    pointers = [("q", "float32"), ("kv", "float32")]
    pointers += [("norm", STORAGE[norm])] if norm else []
    pointers += [("sink", STORAGE[sink]), ("freqs", "float32"), ("ring", recent.dtype),
                 ("slot", "int32"), ("pos", "int32")]
    pointers += [("entries", old.dtype)] if entries != "none" else []
    pointers += [("idx", "int32")] if entries == "picked" else []
    operands = len(pointers)
    function = prim_func(name, [*pointers, ("o", "float32")], body)
    return Kernel(name, function, (None,) * operands, in_place=0)

