"""fuse-norm-rope: RMSNorm, rotary embedding, and both in one (spec 4.3, 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.passes.fuse import FusionPass


@dataclass(frozen=True)
class FuseNormRope(FusionPass):
    """Normalisations and rotations become ops; a norm that feeds a rotation joins it.

    before   %0 = mul(%x, %x) ; %1 = reduce_mean(%0) ; %2 = add(%1, eps) ; %3 = rsqrt(%2)
             %4 = mul(%x, %3) ; %5 = mul(%4, %w) ; ... cos, sin, slices, concat of %5
    after    %5 = norm_rope(%x, %w, %positions, %freqs) {eps = 1e-6}
    """

    name: ClassVar[str] = "fuse-norm-rope"
    rules: ClassVar[tuple[str, ...]] = ("rms_norm", "rope", "norm_rope")
