"""fuse-compressor: blocks of tokens pooled into entries (spec 4.7). After fuse-norm-rope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.passes.fuse import FusionPass


@dataclass(frozen=True)
class FuseCompressor(FusionPass):
    """The carried partial block, the pooling and the appended entries become one op.

    before   %old = ring_read(%partial, %slot, %pos) ; %p = ring_write(%partial, %row, ...)
             %known = concat(%old, %row) ; ... softmax over each block's gates ...
             %e = norm_rope(%pooled, ...) ; %entries1 = entries_append(%entries, %e, ...)
    after    %p, %entries1 = compress(%v, %g, %ape, %norm, %freqs, %partial, %entries, %slot, %pos)
    """

    name: ClassVar[str] = "fuse-compressor"
    rules: ClassVar[tuple[str, ...]] = ("compress",)
