"""Products by groups of rows (experts) and of bf16 numbers: their text, numbers, bytes, syncs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.target import Array, Source
from firstlight.ir import dims
from firstlight.ir.interpreter import run
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, GROUP_INT4
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cambricon.bang_library import compilers
from firstlight.targets.cambricon.chips import CHIPS
from firstlight.targets.cambricon.emit import source
from firstlight.targets.cambricon.fault_sweep import Trying, sweep
from firstlight.targets.cambricon.lint import broken
from firstlight.targets.conform.cases import Case, f32, i32
from firstlight.targets.conform.data import outliers
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.units import Unit, units
from support.bang_runs import Counting, text

TARGET = targets.find("cambricon-mlu590")
MLU370, MLU590 = CHIPS
EXPERTS, CHOSEN = 5, 2
RELATIVE = 4e-6
executed = pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")


def experts(codec: str, inner: int = 64, columns: int = 96) -> Case:
    """x [S, inner], w [experts, columns, inner], index [S, chosen] -> [S, chosen, columns]."""
    return Case("expert_linear", (f32(dims.B, dims.S, inner),
                                  f32(EXPERTS, columns, inner, codec=codec),
                                  i32(dims.B, dims.S, CHOSEN)), {}, (outliers,))


def product(codec: str, inner: int = 192, columns: int = 70) -> Case:
    """x [S, inner], w [columns, inner] -> [S, columns]."""
    return Case("linear", (f32(dims.B, dims.S, inner), f32(columns, inner, codec=codec)), {},
                (outliers,))


def unit(case: Case, shape: str = "prefill") -> Unit:
    """The case's kernel."""
    return next(u for u in units(TARGET, {case.op: [case]}) if u.shape == shape)


def launched(one: Unit, made: Source, tokens: int, folder: Path, index: Array | None = None,
             order: str = "dma late") -> tuple[Array, Array, Mapping[str, int]]:
    """(what a kernel computes, what the op means, bytes moved by direction)."""
    sizes, executor = {"B": 1, "S": tokens}, Counting(MLU590, {made.entry: made}, folder,
                                                      order=order)
    operands = list(one.case.operands(np.random.default_rng(tokens), sizes, 0,
                                      one.case.changes[0]))
    if index is not None:
        operands[-1] = replace(operands[-1], value=index)
    got = Run(executor, None, one, operands, sizes).results[0]
    want = run(one.meaning, "main", [o.value for o in operands], sizes)[0]
    return got, want, executor.moved


def test_the_rows_of_an_expert_are_listed_brought_and_multiplied_together() -> None:
    one = unit(experts(GROUP_FP4))
    made = source(MLU590, one.kernels[0])
    memory_core, cores = text(made).split("        return;\n    }\n", 1)
    assert "GDRAM2SRAM" in memory_core
    assert cores.index("__bang_filter") < cores.index("__sync_cluster();")
    assert cores.index("SRAM2NRAM") < cores.index("__bang_matmul")
    assert broken(text(made)) == []
    assert made.launch["type"] == "union1"
    assert 0 < made.resources["sram_bytes"]


@pytest.mark.parametrize(("options", "shape"), [({"staging": False}, "prefill"),
                                                ({"matrix": False}, "prefill"), ({}, "decode")])
def test_one_token_or_no_sram_needs_no_lists(options: Mapping[str, bool], shape: str) -> None:
    made = source(MLU590, unit(experts("bf16"), shape).kernels[0], **options)
    assert "__bang_filter" not in text(made)
    assert made.resources["sram_bytes"] == 0


def test_a_long_row_leaves_room_for_fewer_of_them() -> None:
    for inner, rows in ((64, 64), (7168, 32), (32768, 0)):
        made = source(MLU590, unit(experts(GROUP_FP4, inner, 64)).kernels[0])
        assert made.resources["sram_bytes"] == 2 * rows * inner * 4


CHOICES = {
    "spread": lambda s: np.random.default_rng(s).integers(0, EXPERTS, (1, s, CHOSEN)),
    "one expert has all, others none": lambda s: np.full((1, s, CHOSEN), 3),
    "the last from behind": lambda s: np.full((1, s, CHOSEN), -1),
}


@executed
@pytest.mark.chip
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("codec", "inner", "columns", "clusters"), [
    (GROUP_FP4, 64, 96, 1), (GROUP_INT4, 320, 48, 2), (BLOCK_FP8, 384, 144, 1), ("f32", 40, 64, 2)])
def test_experts_compute_what_numpy_does(choice: str, codec: str, inner: int, columns: int,
                                         clusters: int, tmp_path: Path) -> None:
    one = unit(experts(codec, inner, columns))
    made = source(MLU590, one.kernels[0], clusters=clusters)
    assert "__bang_filter" in text(made)
    for tokens in (1, 7, 71):
        index = CHOICES[choice](tokens).astype(np.int32)
        got, want, _ = launched(one, made, tokens, tmp_path, index)
        np.testing.assert_allclose(got, want, atol=RELATIVE * np.abs(want).max())


@executed
@pytest.mark.chip
def test_an_experts_weights_are_fetched_once_for_all_its_rows(tmp_path: Path) -> None:
    one, tokens = unit(experts(GROUP_FP4, 128, 256)), 96
    index = np.random.default_rng(0).integers(0, EXPERTS, (1, tokens, CHOSEN)).astype(np.int32)
    (_, _, grouped), (_, _, apart) = (
        launched(one, source(MLU590, one.kernels[0], staging=staging), tokens, tmp_path, index)
        for staging in (True, False))
    weights, rows = 256 * (128 // 2 + 128 // 32), 128 * 4
    assert grouped["GDRAM2SRAM"] == tokens * CHOSEN * rows
    assert grouped["GDRAM2NRAM"] == EXPERTS * weights + 4 * index.nbytes
    assert apart["GDRAM2NRAM"] >= tokens * CHOSEN * weights
    assert grouped["NRAM2GDRAM"] == apart["NRAM2GDRAM"] + index.nbytes + EXPERTS * 4


@executed
@pytest.mark.chip
@pytest.mark.parametrize("codec", [GROUP_FP4, "bf16"])
def test_each_sync_of_a_product_by_groups_matters_or_protects_nothing(codec: str,
                                                                     tmp_path: Path) -> None:
    one = unit(experts(codec, 320, 320))
    made = source(MLU590, one.kernels[0])
    found = sweep(one, TARGET, Trying(MLU590, {made.entry: made}, tmp_path))
    assert found.alarm == ""
    assert [f for f in found.faults if f.verdict == "missed"] == []
    caught = [f.text for f in found.faults if f.verdict == "caught"]
    assert caught.count("__sync_cluster();") == 2
    assert {"__sync_move();", "__sync_compute();", "__sync_io();"} <= set(caught)


@pytest.mark.parametrize(("codec", "products"), [
    (GROUP_FP4, 3), (BLOCK_FP8, 3), ("bf16", 3), (GROUP_INT4, 1), ("f16", 1), ("f32", 1)])
def test_products_are_of_bf16_numbers_where_that_rounds_nothing(codec: str, products: int) -> None:
    kernel = unit(product(codec)).kernels[0]
    plain, narrow = (text(source(MLU590, kernel, bf16=bf16)) for bf16 in (False, True))
    assert narrow.count("__bang_matmul") == products * plain.count("__bang_matmul")
    assert ("bfloat16_t *w" in narrow) == (products == 3)
    assert broken(narrow) == []
    assert plain == narrow or products == 3


@executed
@pytest.mark.chip
@pytest.mark.parametrize("case", [product(GROUP_FP4), product(BLOCK_FP8, 200, 33),
                                  product("bf16", 72, 130), experts(GROUP_FP4, 320, 48)],
                         ids=["fp4", "fp8", "bf16", "experts"])
def test_products_of_bf16_numbers_are_as_exact_as_those_of_floats(case: Case,
                                                                  tmp_path: Path) -> None:
    one = unit(case)
    for tokens in (1, 67):
        made = [source(MLU590, one.kernels[0], bf16=bf16) for bf16 in (False, True)]
        (got, want, _), (narrow, _, _) = (launched(one, m, tokens, tmp_path) for m in made)
        size = np.abs(want).max()
        np.testing.assert_allclose(narrow, want, atol=RELATIVE * size)
        assert np.abs(narrow - want).max() <= np.abs(got - want).max() + 1e-6 * size


def test_a_chip_whose_matrix_unit_gets_no_bf16_says_so() -> None:
    narrow = TARGET.configured({**{n: o.default for n, o in TARGET.options.items()},
                                "matmul": "bf16"})
    made = narrow.emit(unit(product("bf16")).kernels[0])
    assert re.search(r"__bang_reshape_filter\(t\d+, t\d+, 64, 1, 1, \d+\)", text(made))
    with pytest.raises(FirstlightError, match="F409"):
        targets.find("cambricon-mlu370").chosen({"matmul": "bf16"})
