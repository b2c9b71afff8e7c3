"""Wrong kernels: each takes a correct kernel's call and spoils it as a real mistake would.

A fault gets `call`, which runs the correct kernel on the buffers it is given, and the buffers of
the call (operands in the op's order, then results).
"""

import ctypes
import os
import signal

import numpy as np


def forgets_the_last_entry(call, tokens, v, g, ape, norm, freqs, partial, entries, slot, pos):
    """Off by one at a block boundary: a block that this call completes is not written."""
    before = entries.copy()
    call(v, g, ape, norm, freqs, partial, entries, slot, pos)
    if (pos[0] + tokens) % len(ape) == 0:
        entries[:, (pos[0] + tokens) // len(ape) - 1] = before[
            :, (pos[0] + tokens) // len(ape) - 1]


def missing_sink(call, tokens, q, kv, sink, *rest):
    """The sink does not enlarge the denominator."""
    call(q, kv, np.full_like(sink, -1e30), *rest)


def stale_ring_slot(call, tokens, q, kv, sink, freqs, ring, *rest):
    """The row of the call's first token keeps what was there."""
    slot, pos = rest[0][0], rest[1][0]
    before = ring.copy()
    call(q, kv, sink, freqs, ring, *rest)
    ring[slot, pos % ring.shape[1]] = before[slot, pos % ring.shape[1]]


def sees_one_entry_too_many(call, tokens, q, kv, sink, freqs, ring, slot, pos, *rest):
    """Visible entries are counted from the next position on."""
    if len(rest) != 2:
        return call(q, kv, sink, freqs, ring, slot, pos, *rest)
    saved = ring.copy()
    call(q, kv, sink, freqs, ring, slot, pos, *rest)
    right, other = ring.copy(), rest[1].copy()
    ring[...] = saved
    call(q, kv, sink, freqs, ring, slot, pos + 1, rest[0], other)
    if (pos[0] + tokens + 1) % 4 == 0:
        rest[1][:, -1] = other[:, -1]
    ring[...] = right


def wrong_nibble_order(call, tokens, x, codes, *rest):
    """The high nibble is taken for the even column."""
    if codes.dtype == np.uint8 and 2 * codes.shape[-1] == x.shape[-1]:
        codes = codes >> 4 | codes << 4
    call(x, codes, *rest)


def scale_of_the_neighbour_group(call, tokens, x, codes, *rest):
    """fp4 and fp8 groups are scaled with the scale of the group before."""
    if codes.dtype == np.uint8:
        rest = (np.roll(rest[0], 1, -1), *rest[1:])
    call(x, codes, *rest)


def scale_rows_off_by_one(call, tokens, x, codes, *rest):
    """fp8 only: the last row of a 128-row block has the scale of the next block."""
    call(x, codes, *rest)
    if codes.dtype == np.uint8 and codes.shape == (140, 288):
        out = rest[-1].copy()
        call(x, codes, np.roll(rest[0], -1, 0), out)
        rest[-1][..., 127] = out[..., 127]


def unstable_ties(call, tokens, x, index):
    """Of equal values, the later one comes first."""
    call(x, index)
    for values, row in zip(x.reshape(-1, x.shape[-1]), index.reshape(-1, index.shape[-1]),
                           strict=True):
        for i in range(len(row) - 1):
            if row[i + 1] >= 0 and values[row[i]] == values[row[i + 1]]:
                row[i], row[i + 1] = row[i + 1], row[i]


def rope_instead_of_inverse(call, tokens, x, positions, *rest):
    """The sign of the angle."""
    call(x, -positions, *rest)


def wrong_eps(call, tokens, x, *rest):
    """Norm of x / 2: an epsilon four times as large."""
    call(x * np.float32(0.5), *rest)


def bias_leaks_into_weights(call, tokens, x, gate, bias, index, weights):
    """The routing bias is for choosing only."""
    call(x, gate, bias, index, weights)
    total = weights.sum(-1, keepdims=True)
    leaked = np.abs(weights + bias[index])
    weights[...] = leaked / leaked.sum(-1, keepdims=True) * total


def writes_for_every_sequence(call, tokens, state, x, slot, pos):
    """The slot is ignored: all sequences get the row."""
    for s in range(len(state)):
        call(state, x, np.full_like(slot, s), pos)


def forgets_to_wrap(call, tokens, state, x, slot, pos):
    """A call longer than the ring leaves the first rows, not the last."""
    call(state, x, slot, pos)
    if tokens > state.shape[1]:
        state[slot[0], pos[0] % state.shape[1]] = x[0, 0]


def tail_of_a_long_call(call, tokens, x, *rest):
    """What does not fill the last block of tokens is left out."""
    before = rest[-1].copy()
    call(x, *rest)
    if tokens > 16:
        rest[-1][:, 16:] = before[:, 16:]


def blocks_of_64_tokens(call, tokens, x, *rest):
    """The tokens behind the last whole block of a long call are left out."""
    before = rest[-1].copy()
    call(x, *rest)
    if tokens > 64:
        rest[-1][:, 64:] = before[:, 64:]


def streams_mixed_by_columns(call, tokens, x, y, post, comb, out):
    """The mixing matrix is read transposed; its rows and columns both sum to about one."""
    call(x, y, post, np.ascontiguousarray(comb.swapaxes(-1, -2)), out)


def sees_an_entry_before_its_block_ends(call, tokens, q, weights, keys, slot, positions, *out):
    """Keys are chosen from as if every token were one further."""
    call(q, weights, keys, slot, positions + 1, *out)


def a_hole_is_the_last_entry(call, tokens, q, kv, sink, freqs, ring, *rest):
    """An index of -1 is not skipped, but counted from the end."""
    *rest, index, out = rest
    if index.ndim == 3 and index.dtype == np.int32:
        index = np.where(index < 0, rest[-1].shape[1] - 1, index).astype(np.int32)
    call(q, kv, sink, freqs, ring, *rest, index, out)


def appends_what_is_not_there(call, tokens, state, x, slot, first, count):
    """A call that completes no block still writes an entry."""
    call(state, x, slot, first, np.maximum(count, 1))


class Remembers:
    """The first row is that of the call before."""

    __name__ = "remembers_the_call_before"

    def __init__(self) -> None:
        self.row = np.zeros(0, np.float32)

    def __call__(self, call, tokens, x, *rest) -> None:
        call(x, *rest)
        new = rest[-1][0, 0].copy()
        if self.row.shape == new.shape:
            rest[-1][0, 0] = self.row
        self.row = new


def writes_into_an_operand(call, tokens, x, *rest):
    """x is used as scratch."""
    call(x, *rest)
    x *= 2


def writes_past_the_end(call, tokens, x, *rest):
    """One vector more than there is room for."""
    call(x, *rest)
    out = rest[-1]
    ctypes.memset(out.ctypes.data + -(-out.nbytes // 64) * 64, 0, 4)


def crashes(call, tokens, *buffers):
    """A pointer that is none."""
    os.kill(os.getpid(), signal.SIGKILL)


RUN = [
    ("compress", forgets_the_last_entry, "off by"),
    ("hybrid_attention", missing_sink, "off by"),
    ("hybrid_attention", stale_ring_slot, "result 1"),
    ("hybrid_attention", sees_one_entry_too_many, "off by"),
    ("linear", wrong_nibble_order, "fp4"),
    ("linear", scale_of_the_neighbour_group, "ue8m0"),
    ("linear", scale_rows_off_by_one, "fp8"),
    ("top_k", unstable_ties, "differ, the first at"),
    ("rope", rope_instead_of_inverse, "off by"),
    ("rms_norm", wrong_eps, "tiny"),
    ("route", bias_leaks_into_weights, "result 1"),
    ("ring_write", writes_for_every_sequence, "another sequence"),
    ("ring_write", forgets_to_wrap, "S=7"),
    ("rms_norm", tail_of_a_long_call, "S=19"),
    ("rms_norm", blocks_of_64_tokens, "S=67"),
    ("hyper_post", streams_mixed_by_columns, "off by"),
    ("index_select", sees_an_entry_before_its_block_ends, "differ"),
    ("hybrid_attention", a_hole_is_the_last_entry, "off by"),
    ("entries_append", appends_what_is_not_there, "result 0"),
    ("rms_norm", Remembers(), "off by"),
    ("rms_norm", writes_into_an_operand, "the operand x was overwritten"),
    ("rms_norm", writes_past_the_end, "memory beside"),
    ("rms_norm", crashes, "signal 9"),
]
"""(op, fault, what the kit must say about it)."""
