"""fuse-hybrid-attention: window and entries under one softmax (spec 4.6, 4.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.passes.fuse import FusionPass


@dataclass(frozen=True)
class FuseHybridAttention(FusionPass):
    """Ring read and write, both score products, softmax with sink and inverse rope become one op.

    before   %old = ring_read(%ring, ...) ; %r = ring_write(%ring, %kv, ...) ; ... select, exp, sum,
             two matmuls ... ; %o = rope(%mixed / %total, %positions, %freqs) {inverse = true}
    after    %o, %r = hybrid_attention(%q, %kv, %sink, %freqs, %ring, %slot, %pos, %entries, %index)
    """

    name: ClassVar[str] = "fuse-hybrid-attention"
    rules: ClassVar[tuple[str, ...]] = ("hybrid_attention",)
