"""Generic kernels against the numpy references and against their decompositions, interpreted."""

import math
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.ir import codecs, dims
from firstlight.ir.core import Op
from firstlight.ir.interpreter import run
from firstlight.ir.registry import TABLE
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.conform.cases import Case, f32, i32
from firstlight.targets.conform.composites import composites
from firstlight.targets.conform.data import Operand, decoded, plain
from firstlight.targets.conform.primitives import ENTRIES, I32
from firstlight.targets.conform.run import RELATIVE
from support.errors import error
from support.judged import FAMILIES, call, judge_family
from support.linked import Linked, aligned

B, S = dims.B, dims.S


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_compute_what_the_references_say(family: str, tmp_path: Path) -> None:
    judge_family(family, tmp_path)


def test_every_code_and_scale_is_decoded_exactly(tmp_path: Path) -> None:
    """All fp8 codes but NaN, all fp4 codes, scales 2^-127 .. 2^127, bit for bit."""
    fp8 = np.tile(np.delete(np.arange(256), [0x7F, 0xFF]).astype(np.uint8), (256, 1))
    scales = np.arange(255, dtype=np.uint8)
    tables = {}
    nibbles = np.tile(np.arange(256, dtype=np.uint8), (255, 1))
    groups = np.tile(scales[:, None], (1, 16))
    with np.errstate(over="ignore"):
        for scale in (0, 1, 100, 127, 150, 254):
            grid = np.full((2, 2), scale, np.uint8)
            tables[f"fp8_{scale}"] = (Operand(decoded(fp8, grid, BLOCK_FP8), fp8, grid), BLOCK_FP8)
        tables["fp4"] = (Operand(decoded(nibbles, groups, GROUP_FP4), nibbles, groups),
                         GROUP_FP4)
    kernels = {}
    for name, (weight, codec) in tables.items():
        case = Case("embedding", (f32(*weight.value.shape, codec=codec), i32(B, S)))
        module = case.module({"B": 1})
        kernels[name] = generic_kernel(name, module["main"].ops[0], module)
    linked = Linked(kernels.values(), tmp_path)
    for name, (weight, _) in tables.items():
        rows = len(weight.value)
        out = aligned(np.zeros((1, *weight.value.shape), np.float32))
        ids = aligned(np.arange(rows, dtype=np.int32)[None])
        linked(name, [*map(aligned, weight.stored), ids, out], rows)
        np.testing.assert_array_equal(out[0].view(np.int32), weight.value.view(np.int32))
    linked.close()


def test_entries_of_a_context_shorter_than_a_block(tmp_path: Path) -> None:
    """No entry fits: nothing is selected, nothing is appended, attention sees the window only."""
    cases = [c for c in composites() if any(getattr(t, "kind", "") == "entries" for t in c.types)
             and "index" not in TABLE[c.op].bind(len(c.types))]
    made = {f"{c.op}_{i}": (c, c.module({"B": 1, "C": 3})) for i, c in enumerate(cases)}
    linked = Linked([generic_kernel(n, m["main"].ops[0], m) for n, (_, m) in made.items()],
                    tmp_path)
    sizes, random = {"B": 1, "S": 2, "C": 3}, np.random.default_rng(0)
    for name, (case, module) in made.items():
        operands = list(case.operands(random, sizes, 1, plain))
        want = run(module, "main", [o.value for o in operands], sizes)
        got = call(linked, name, case, operands, module, want, 2)
        assert error(got, want) <= RELATIVE, name
    linked.close()


def test_stacked_experts_of_more_than_2_to_the_31_elements(tmp_path: Path) -> None:
    """The last expert is reached; memory that is never touched costs nothing."""
    e, n, k = 256, 4096, 2048
    case = Case("expert_linear", (f32(B, S, k), f32(e, n, k, codec=GROUP_FP4), i32(B, S, 1)))
    module = case.module({"B": 1, "S": 1})
    linked = Linked([generic_kernel("wide", module["main"].ops[0], module)], tmp_path)
    random = np.random.default_rng(0)
    codes, scales = untouched((e, n, k // 2)), untouched((e, n, k // 32))
    codes[-1], scales[-1] = random.integers(0, 256, codes.shape[1:]), 127
    x = aligned(random.standard_normal((1, 1, k)).astype(np.float32))
    out = aligned(np.zeros((1, 1, 1, n), np.float32))
    last = aligned(np.full((1, 1, 1), e - 1, np.int32))
    linked("wide", [x, codes, scales, last, out], 1)
    want = x[0, 0] @ codecs.decode_weight(codes[-1], scales[-1], GROUP_FP4).T
    assert error([out[0, 0, 0]], [want]) <= RELATIVE
    linked.close()


def untouched(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros at a 64-byte boundary that take no memory until they are written."""
    room = np.zeros(math.prod(shape) + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + math.prod(shape)].reshape(shape)


def test_a_call_has_no_kernel() -> None:
    case = Case("repeat", (f32(B, S, 3, 3),), {"count": 1}, callee=lambda x: x * 0.5)
    module = case.module({"B": 1})
    op = module["main"].ops[0]
    called = Op("call", op.operands, {"callee": "callee"}, op.results)
    with pytest.raises(FirstlightError, match="F450"):
        generic_kernel("call", called, module)


def test_an_op_must_be_specialised() -> None:
    case = Case("entries_read", (ENTRIES, I32))
    module = case.module({})
    with pytest.raises(FirstlightError, match="F451"):
        generic_kernel("read", module["main"].ops[0], module)
