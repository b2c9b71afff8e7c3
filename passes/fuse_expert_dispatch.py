"""fuse-expert-dispatch: routing, and the experts with the shared one (spec 4.11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.passes.fuse import FusionPass


@dataclass(frozen=True)
class FuseExpertDispatch(FusionPass):
    """Router scores, top-k (or a hash table) and weights become one op, all experts another.

    before   %s = sqrt(softplus(linear(%x, %gate))) ; %i = top_k(%s + %bias) ; ... / sum * scale
             %h = swiglu(expert_linear(%x, %w1, %i), expert_linear(%x, %w3, %i))
             %y = reduce_sum(expert_linear(%h, %w2, %i) * %w) + the shared expert
    after    %i, %w = route(%x, %gate, %bias) {k = 6, scale = 1.5}
             %y = expert_ffn(%x, %i, %w, %w1, %w3, %w2, %s1, %s3, %s2) {limit = 10.0}
    """

    name: ClassVar[str] = "fuse-expert-dispatch"
    rules: ClassVar[tuple[str, ...]] = ("route", "route_hash", "expert_ffn")
