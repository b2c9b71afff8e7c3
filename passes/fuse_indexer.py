"""fuse-indexer: scores of compressed entries and the best of them (spec 4.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.passes.fuse import FusionPass


@dataclass(frozen=True)
class FuseIndexer(FusionPass):
    """Scoring, visibility and top-k become one op that streams the keys once.

    before   %e = entries_read(%keys, %slot) ; %h = relu(matmul(%q, %e) * scale)
             %s = reduce_sum(%h * (%a * head_scale)) ; %i = top_k(select(%visible, %s, -inf))
    after    %i = index_select(%q, %a, %keys, %slot, %positions) {k = 512, ...}
    """

    name: ClassVar[str] = "fuse-indexer"
    rules: ClassVar[tuple[str, ...]] = ("index_select",)
