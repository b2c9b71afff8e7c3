"""fuse-hyper-connections: the residual streams' coefficients and mixing (spec 4.1, 4.2, 4.12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.passes.fuse import FusionPass


@dataclass(frozen=True)
class FuseHyperConnections(FusionPass):
    """Coefficients, Sinkhorn rounds, collapse and norm become one op; so does the mixing back.

    before   %z = linear(rms_norm(reshape(%x)), %fn) ; ... sigmoid, softmax, repeat @sinkhorn ...
             %y = rms_norm(reduce_sum(%pre * %x), %norm)
             %x1 = %post * %out + matmul(transpose(%comb), %x)
    after    %y, %post, %comb = hyper_pre(%x, %fn, %base, %scale, %norm) {rounds = 19, ...}
             %x1 = hyper_post(%x, %out, %post, %comb)
    """

    name: ClassVar[str] = "fuse-hyper-connections"
    rules: ClassVar[tuple[str, ...]] = ("hyper_pre", "hyper_post", "hyper_head")
