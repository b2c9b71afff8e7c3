"""How weights are stored in a model's data file, and how the graph makes float32 of them.

| form | stored as | decoded by |
|---|---|---|
| f32, i32 | FLOAT, INT32 | nothing |
| bf16, f16 | BFLOAT16, FLOAT16 | Cast |
| fp8, int8, int4 | FLOAT8E4M3FN, INT8, INT4; scales FLOAT | DequantizeLinear in blocks |
| fp8-table, fp4-table, int4-table | UINT8; scales FLOAT | Gather of a table, Mul |

Rows and experts are picked before they are decoded. ONNX has no Gather of 8-bit floats and 4-bit
numbers, which is what the tables are for; float4 has one because onnxruntime's CPU provider cannot
decode FLOAT4E2M1 at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.onnx.coded import (
    BFLOAT16,
    FLOAT8E4M3FN,
    FLOAT16,
    INT8,
    PAIRS,
    UINT8,
    lookup,
)
from firstlight.codegen.onnx.elementwise import F32, I32
from firstlight.codegen.onnx.graph import Graph
from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, CODECS, GROUP_FP4, GROUP_INT4, GROUP_INT8

INT4 = 22
_FP8 = codecs.decode_e4m3(np.arange(256, dtype=np.uint8))


@dataclass(frozen=True)
class Form:
    """One row of the table above.

    Attributes:
        kind: ONNX element type of what is stored, `dtype` its name in the data file.
        table: values by byte: one for each, or two (two codes to a byte).
        scaled: whether scales follow, one for `block` elements of the inner axis of the codec.
        dense: elements in one stored byte of the data file.
        picks: whether ONNX can gather what is stored.
    """

    kind: int
    dtype: str
    table: NDArray[np.float32] | None = None
    scaled: bool = False
    dense: int = 1
    picks: bool = True


FORMS: Mapping[str, Form] = {
    "f32": Form(F32, "F32"), "i32": Form(I32, "I32"), "bf16": Form(BFLOAT16, "BF16"),
    "f16": Form(FLOAT16, "F16"), "int8": Form(INT8, "I8", scaled=True),
    "fp8": Form(FLOAT8E4M3FN, "F8_E4M3", scaled=True, picks=False),
    "int4": Form(INT4, "U8", scaled=True, dense=2, picks=False),
    "fp8-table": Form(UINT8, "U8", _FP8, scaled=True),
    "fp4-table": Form(UINT8, "U8", PAIRS[GROUP_FP4], scaled=True, dense=2),
    "int4-table": Form(UINT8, "U8", PAIRS[GROUP_INT4], scaled=True, dense=2),
}

Choice = Callable[[str, bool, bool], str]
"""(codec, whether the weight is picked from, whether rows have an even length) -> form."""


def _float32(codec: str, picked: bool, even: bool) -> str:
    return "i32" if codec in ("i32", "i64") else "f32"


def _bf16(codec: str, picked: bool, even: bool) -> str:
    exact = {"bf16": "bf16", BLOCK_FP8: "bf16", GROUP_FP4: "bf16", "f16": "f16"}
    return exact.get(codec) or _float32(codec, picked, even)


def _packed(codec: str, picked: bool, even: bool) -> str:
    if codec == BLOCK_FP8:
        return "fp8-table" if picked else "fp8"
    if codec == GROUP_FP4:
        return "fp4-table" if even else "bf16"
    if codec == GROUP_INT4 and even:
        return "int4-table" if picked else "int4"
    return "int8" if codec in (GROUP_INT8, GROUP_INT4) else _bf16(codec, picked, even)


CHOICES: Mapping[str, Choice] = {"float32": _float32, "bf16": _bf16, "packed": _packed}
"""By the option `weights`; none of them changes a value."""


def block_of(codec: str) -> int:
    """Elements of the inner axis that share a scale."""
    return CODECS[codec].block[1]


def decode(g: Graph, form: Form, names: tuple[str, ...], codec: str, axis: int, rank: int,
           inner: int) -> str:
    """float32 of stored parts.

    Args:
        names: codes, and scales where there are some.
        axis: -1 or -2, the inner axis of the codec, of `inner` elements.
        rank: of the result.
    """
    if form.table is not None:
        values = lookup(g, names[0], form.table)
        if form.dense == 2:
            values = g("Reshape", values, [0] * (rank - 1) + [-1])
        blocks = np.arange(inner, dtype=np.int64) // block_of(codec)
        return str(g("Mul", values, g("Gather", names[1], blocks, axis=axis)))
    if form.scaled:
        return str(g("DequantizeLinear", *names, axis=axis % rank, block_size=block_of(codec)))
    return names[0] if form.kind in (F32, I32) else str(g("Cast", names[0], to=F32))
