"""fuse-attention-inputs: norm and rope of queries and keys join the attention that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.ir.core import Module
from firstlight.passes.base import Pass
from firstlight.passes.fuse import fuse


@dataclass(frozen=True)
class FuseAttentionInputs(Pass):
    """For targets that have `norm_rope_attention`: queries are not written only to be read again.

    before   %3 = norm_rope(%0, %positions, %freqs) ; %4 = norm_rope(%1, %w, %positions, %freqs)
             %5, %ring = hybrid_attention(%3, %4, %sink, %freqs, ...)
    after    %5, %ring = norm_rope_attention(%0, %1, %w, %sink, %freqs, ...)
    """

    name: ClassVar[str] = "fuse-attention-inputs"
    rules: ClassVar[tuple[str, ...]] = ("norm_rope_attention",)

    def run(self, module: Module) -> Module:
        """The module with every such attention joined."""
        return fuse(module, self.rules)
