"""Weights in the formats that the chip multiplies: MXFP8, and FP4 in three ways; without any loss.

The chip's matrix units read e4m3 with one power of two for 32 elements along K. Both released
codecs become that by moving bits: a 128x128 block's scale is written once for each of its groups of
32, and an FP4 code, one of 15 values, is an e4m3 code of the same value. No number changes.

Kernels multiply in float32, whatever their weights' format: how the weights are stored is chosen
here, by the target's options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Override
from firstlight.ir import codecs
from firstlight.ir.core import Module, Op, Value
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, MXFP8, TensorType, Type
from firstlight.runtime.errors import FirstlightError

Array = NDArray[Any]
GROUP = 32
"""Elements along K that share a scale."""
LAYOUT = "mxfp8"
EXPERTS = {
    "fp4-unpack": "FP4 stays FP4, half a byte each; vector cores unpack it in the kernel",
    "mxfp8": "FP4 becomes e4m3 with its own scales, twice the bytes",
    "extern": "FP4 stays FP4; products are CANN's npu_grouped_matmul, bound by name on the machine "
              "that has it: listed here, not compiled, and never executed",
}
FP8 = {
    "blocks": "FP8 keeps a scale for 128x128 elements, as the checkpoint has it",
    "mxfp8": "FP8 gets its scale written out for each 32 elements, 3 percent more bytes",
}
OPS = ("linear", "linears", "group_linear", "expert_linear", "expert_ffn")
"""Ops with weights that may be stored in another way."""

E2M1_AS_E4M3 = codecs.encode_e4m3(codecs.E2M1)
"""e4m3 code by FP4 code: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their negatives."""


def fp8_as_mxfp8(codes: Array, scales: Array, first_row: int = 0) -> tuple[Array, Array]:
    """A block-FP8 weight as MXFP8.

    Args:
        codes: uint8 [..., N, K] of e4m3, rows of a matrix from `first_row` on.
        scales: uint8 [..., rows of blocks, ceil(K/128)] of e8m0, of the whole matrix.

    Returns the same codes, and e8m0 scales [..., N, ceil(K/32)].
    """
    *_, rows, columns = codes.shape
    row = (first_row + np.arange(rows)) // codecs.FP8_BLOCK
    column = np.arange(-(-columns // GROUP)) * GROUP // codecs.FP8_BLOCK
    return codes, np.ascontiguousarray(scales[..., row, :][..., column])


def fp4_as_mxfp8(codes: Array, scales: Array) -> tuple[Array, Array]:
    """An FP4 weight as MXFP8: uint8 [..., N, K/2] -> [..., N, K], and the same scales."""
    wide = np.stack([E2M1_AS_E4M3[codes & 15], E2M1_AS_E4M3[codes >> 4]], -1)
    return wide.reshape(*codes.shape[:-1], -1), scales


def decode(codes: Array, scales: Array) -> NDArray[np.float32]:
    """The float32 values of an MXFP8 weight [..., N, K]."""
    columns = np.arange(codes.shape[-1]) // GROUP
    return codecs.decode_e4m3(codes) * codecs.decode_e8m0(scales)[..., columns]


def overrides(formats: Sequence[str]) -> Mapping[str, Override]:
    """Kernels that read weights of these codecs as MXFP8."""
    return dict.fromkeys(OPS, partial(_repacked, tuple(formats))) if formats else {}


def _repacked(formats: Sequence[str], symbol: str, op: Op, tokens: int) -> Kernel | None:
    """The generic kernel over weights in MXFP8; None where there are none."""
    from firstlight.codegen.generic import generic_kernel

    types = [_stored(v.type, formats) for v in op.operands]
    if types == [v.type for v in op.operands]:
        return None
    operands = tuple(Value(t, v.loc) for t, v in zip(types, op.operands, strict=True))
    kernel = generic_kernel(symbol, replace(op, operands=operands), Module())
    return Kernel(kernel.name, kernel.func, tuple(
        None if v.type == t else LAYOUT for v, t in zip(op.operands, types, strict=True)))


def _stored(type_: Type, formats: Sequence[str]) -> Type:
    if isinstance(type_, TensorType) and type_.codec in formats:
        columns = type_.shape[-1]
        if isinstance(columns, int) and columns % GROUP == 0:
            return replace(type_, codec=MXFP8)
    return type_


@dataclass(frozen=True)
class Extern(Kernel):
    """A kernel that is not ours: `binding` says which op of the vendor's library it is."""

    binding: Mapping[str, Any]


def extern(symbol: str, op: Op, tokens: int) -> Kernel | None:
    """A product with FP4 experts as the vendor's own op; None for other weights."""
    from firstlight.codegen.generic import generic_kernel

    x, weight, index = (v.type for v in op.operands)
    if not isinstance(weight, TensorType) or weight.codec != GROUP_FP4:
        return None
    experts, n, k = weight.shape
    kernel = generic_kernel(symbol, op, Module())
    return Extern(kernel.name, kernel.func, kernel.layouts, {
        "op": "npu_grouped_matmul", "x": f"{x}: rounded to MXFP8 for the op, rows sorted by expert",
        "weight": f"{weight}: codes, then scales", "index": str(index), "experts": experts,
        "n": n, "k": k, "pointers": ["x", "weight", "weight_scales", "index", "result"]})


class MxPacker:
    """A `firstlight.codegen.target.Packer` of the layout ``mxfp8``."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[
            tuple[tuple[int, ...], str], tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of packed codes and scales."""
        self._check(layout, codec)
        *lead, rows, columns = shape
        return ((*lead, rows, columns), "uint8"), ((*lead, rows, columns // GROUP), "uint8")

    def by_rows(self, layout: str) -> bool:
        """Rows stay where they are."""
        return True

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, Array]:
        """A weight, or rows of one from `first_row` on; FP8 scales always begin at row 0."""
        self._check(layout, codec)
        assert scales is not None, "both codecs have scales"
        if codec == GROUP_FP4:
            return fp4_as_mxfp8(codes, scales)
        return fp8_as_mxfp8(codes, scales, first_row)

    def _check(self, layout: str, codec: str) -> None:
        if layout != LAYOUT or codec not in (BLOCK_FP8, GROUP_FP4):
            raise FirstlightError(
                "F477", f"the layout {layout} has no weights in {codec}", where="targets.ascend",
                why=f"{LAYOUT} takes {BLOCK_FP8} and {GROUP_FP4}",
                try_="the weight as the checkpoint has it")
