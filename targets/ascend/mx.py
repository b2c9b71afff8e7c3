"""Weights in the formats that the chip multiplies: MXFP8, and FP4 in three ways; without any loss.

The chip's matrix units read e4m3 with one power of two for 32 elements along K. Both released
codecs become that by moving bits: a 128x128 block's scale is written once for each of its groups of
32, and an FP4 code, one of 15 values, is an e4m3 code of the same value. No number changes.

Kernels as they are compiled here read checkpoints as they are and multiply in float32. This is the
packing for those that multiply MX formats, the vendor's own among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.runtime.errors import FirstlightError

Array = NDArray[Any]
GROUP = 32
"""Elements along K that share a scale."""
WAYS = {
    "fp4-unpack": "FP4 stays FP4, half a byte each; vector cores unpack it in the kernel",
    "mxfp8": "FP4 becomes e4m3 with its own scales, twice the bytes; the cube core reads it",
    "extern": "FP4 stays FP4, for the vendor's own grouped product, bound by name where CANN is",
}
EXTERN = "npu_grouped_matmul"
"""The vendor's op with FP8 activations and FP4 weights; the open compiler cannot link that one."""

E2M1_AS_E4M3 = codecs.encode_e4m3(codecs.E2M1)
"""e4m3 code by FP4 code: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their negatives."""


def fp8_as_mxfp8(codes: Array, scales: Array) -> tuple[Array, Array]:
    """A block-FP8 weight as MXFP8.

    Args:
        codes: uint8 [..., N, K] of e4m3.
        scales: uint8 [..., ceil(N/128), ceil(K/128)] of e8m0.

    Returns the same codes, and e8m0 scales [..., N, ceil(K/32)].
    """
    *_, rows, columns = codes.shape
    groups = -(-columns // GROUP)
    row = np.arange(rows) // codecs.FP8_BLOCK
    column = np.arange(groups) * GROUP // codecs.FP8_BLOCK
    return codes, np.ascontiguousarray(scales[..., row, :][..., column])


def fp4_as_mxfp8(codes: Array, scales: Array) -> tuple[Array, Array]:
    """An FP4 weight as MXFP8: uint8 [..., N, K/2] -> [..., N, K], and the same scales."""
    wide = np.stack([E2M1_AS_E4M3[codes & 15], E2M1_AS_E4M3[codes >> 4]], -1)
    return wide.reshape(*codes.shape[:-1], -1), scales


def decode(codes: Array, scales: Array) -> NDArray[np.float32]:
    """The float32 values of an MXFP8 weight [..., N, K]."""
    columns = np.arange(codes.shape[-1]) // GROUP
    return codecs.decode_e4m3(codes) * codecs.decode_e8m0(scales)[..., columns]


class MxPacker:
    """A `firstlight.codegen.target.Packer` of the layouts ``mxfp8`` and ``fp4-unpack``."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[
            tuple[tuple[int, ...], str], tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of packed codes and scales."""
        self._check(layout, codec)
        *lead, rows, columns = shape
        scales = (*lead, rows, -(-columns // GROUP))
        width = columns // 2 if layout == "fp4-unpack" else columns
        return ((*lead, rows, width), "uint8"), (scales, "uint8")

    def by_rows(self, layout: str) -> bool:
        """Rows stay where they are."""
        return True

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, Array]:
        """A weight, or rows of one from `first_row` on; FP8 scales always begin at row 0."""
        self._check(layout, codec)
        assert scales is not None, "both codecs have scales"
        if codec == GROUP_FP4:
            return (codes, scales) if layout == "fp4-unpack" else fp4_as_mxfp8(codes, scales)
        if first_row % codecs.FP8_BLOCK == 0:
            return fp8_as_mxfp8(codes, scales[..., first_row // codecs.FP8_BLOCK:, :])
        skipped = first_row % codecs.FP8_BLOCK
        block = scales[..., first_row // codecs.FP8_BLOCK:, :]
        padded = np.zeros((*codes.shape[:-2], skipped + codes.shape[-2], codes.shape[-1]), np.uint8)
        return codes, fp8_as_mxfp8(padded, block)[1][..., skipped:, :]

    def _check(self, layout: str, codec: str) -> None:
        known = {"mxfp8": (BLOCK_FP8, GROUP_FP4), "fp4-unpack": (GROUP_FP4,)}
        if codec not in known.get(layout, ()):
            raise FirstlightError(
                "F477", f"the layout {layout} has no weights in {codec}", where="targets.ascend",
                why="; ".join(f"{name} takes {', '.join(c)}" for name, c in known.items()),
                try_="another layout, or the weight as the checkpoint has it")
