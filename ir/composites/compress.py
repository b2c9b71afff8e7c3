"""The compressor (spec 4.7): blocks of tokens become one entry, partial blocks are carried."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array, concat, emit, iota, size_of
from firstlight.ir.builder import require
from firstlight.ir.registry import (
    cost_of,
    decomposition_of,
    example,
    lookup,
    op,
    reference_of,
    shape_of,
)
from firstlight.ir.rows import held
from firstlight.ir.types import StateType, TensorType, Type

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
B, S = dims.B, dims.S

compress = op(
    "compress", ("v", "g", "ape", "norm", "freqs", "partial", "entries", "slot", "pos"),
    ("partial", "entries"), attrs={"eps": float, "overlap": bool}, composite=True,
)


@shape_of(compress)
def _(v: TensorType, g: TensorType, ape: TensorType, norm: TensorType, freqs: TensorType,
      partial: StateType, entries: StateType, slot: TensorType, pos: TensorType, *, eps: float,
      overlap: bool) -> tuple[StateType, StateType]:
    """Values and gates [B, S, w] of S tokens; w is the entry width c, or 2c with overlap.

    A token's partial row is (value, gate + ape[p mod m]). Entry t // m is appended when token
    t = m-1 mod m has been seen; `partial` keeps m rows (2m with overlap).
    """
    m, width = partial.ratio, norm.shape[0]
    assert isinstance(width, int)
    require(entries.ratio == m and entries.width == width, f"{entries} does not fit {partial}")
    wide = 2 * width if overlap else width
    require(v.shape == g.shape and v.shape[-1] == wide, f"values and gates are {wide} wide")
    require(ape.shape == (m, wide), f"ape is {ape.shape}, not {(m, wide)}")
    require(partial.width == 2 * wide and partial.rows == (2 * m if overlap else m),
            f"{partial} does not fit ratio {m} and width {wide}")
    return partial, entries


@reference_of(compress)
def _(v: F32, g: F32, ape: F32, norm: F32, freqs: F32, partial: F32, entries: F32, slot: I32,
      pos: I32, *, eps: float, overlap: bool, types: tuple[Type, ...]) -> tuple[F32, F32]:
    m, c, state = len(ape), len(norm), types[6]
    assert isinstance(state, StateType)
    partial, entries = partial.copy(), entries.copy()
    rope, rms_norm = lookup("rope").reference, lookup("rms_norm").reference
    assert rope is not None
    assert rms_norm is not None
    for b in range(len(v)):
        ring = partial[slot[b]]
        for s in range(v.shape[1]):
            t = int(pos[b]) + s
            ring[t % len(ring)] = np.concatenate([v[b, s], g[b, s] + ape[t % m]])
            if (t + 1) % m:
                continue
            values, gates = np.split(ring[np.arange(t + 1 - m, t + 1) % len(ring)], 2, -1)
            if overlap:
                values, gates = values[:, c:], gates[:, c:]
                if t >= m:  # block 0 has no block before it
                    before = ring[np.arange(t + 1 - 2 * m, t + 1 - m) % len(ring)]
                    values = np.concatenate([before[:, :c], values])
                    gates = np.concatenate([before[:, 2 * c:3 * c], gates])
            p = np.exp(gates - gates.max(0))
            entry = (p / p.sum(0) * values).sum(0)
            entry = rms_norm(entry, norm, eps=eps)
            first = np.array([[t + 1 - m]], np.int32)
            entry = rope(entry[None, None], first, freqs, inverse=False)[0, 0]
            entries[slot[b], t // m] = held(entry, state.codec)
    return partial, entries


@decomposition_of(compress)
def _(v: Array, g: Array, ape: Array, norm: Array, freqs: Array, partial: Array, entries: Array,
      slot: Array, pos: Array, *, eps: float, overlap: bool) -> tuple[Array, Array]:
    b, batch, tokens = v.builder, v.shape[0], v.shape[1]
    m, rows, wide, c = partial.state.ratio, partial.state.rows, v.dim(-1), norm.dim(0)
    positions = pos.reshape(batch, 1) + iota(b, (1, tokens), 1)
    (place,) = emit(b, "embedding", ape, positions % m)
    row = concat([v, g + place], -1)
    (old,) = emit(b, "ring_read", partial, slot, pos)
    (partial_out,) = emit(b, "ring_write", partial, row, slot, pos)
    known = concat([old, row], 1)                            # rows of positions pos - rows ...
    blocks = dims.ceildiv(tokens, m)
    done = pos // m                                          # blocks complete before this call
    number = done.reshape(batch, 1) + iota(b, (1, blocks), 1)
    start = number * m - pos.reshape(batch, 1) + rows        # where block `number` starts in known
    index = start.reshape(batch, blocks, 1) + iota(b, (1, 1, m), 2)
    current = known.emit("gather_rows", index)
    value, gate = current.take(-1, 0, wide), current.take(-1, wide, 2 * wide)
    if overlap:
        before = known.emit("gather_rows", index - m)
        nothing = number.reshape(batch, blocks, 1, 1) < 1
        old_gate = nothing.where(-float("inf"), before.take(-1, 2 * c, 3 * c))
        value = concat([before.take(-1, 0, c), value.take(-1, c, 2 * c)], 2)
        gate = concat([old_gate, gate.take(-1, c, 2 * c)], 2)
    pooled = (gate.softmax(2) * value).sum(2)
    (entry,) = emit(b, "norm_rope", pooled, norm, number * m, freqs, eps=eps)
    count = (pos + size_of(b, tokens)) // m - done
    (entries_out,) = emit(b, "entries_append", entries, entry, slot, done, count)
    return partial_out, entries_out


@cost_of(compress)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 10 * dims.product(ins[0].shape)


for _overlap in (False, True):
    _w = 12 if _overlap else 6
    example(compress, TensorType((B, S, _w)), TensorType((B, S, _w)), TensorType((4, _w)),
            TensorType((6,)), TensorType((2,)),
            StateType("partial", 2 * _w, 8 if _overlap else 4, 4), StateType("entries", 6, ratio=4),
            TensorType((B,), "i32"), TensorType((B,), "i32"), eps=1e-3, overlap=_overlap)

