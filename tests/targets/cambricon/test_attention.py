"""Attention over one list of window rows and entries: its text, numbers, bytes and syncs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.nests.attention import Attention
from firstlight.codegen.nests.program import program
from firstlight.ir import dims
from firstlight.ir.interpreter import run
from firstlight.ir.types import StateType
from firstlight.targets.cambricon.attention import fused
from firstlight.targets.cambricon.bang_library import compilers
from firstlight.targets.cambricon.chips import CHIPS, RESERVED
from firstlight.targets.cambricon.emit import source
from firstlight.targets.cambricon.fault_sweep import Trying, sweep
from firstlight.targets.cambricon.lint import broken
from firstlight.targets.conform.cases import Case, f32, i32
from firstlight.targets.conform.data import integers, outliers, plain
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.units import CONTEXT, Unit, units
from support.bang_runs import Counting, text

B, S = dims.B, dims.S
PLACES = i32(B)
MLU370, MLU590 = CHIPS
FLASH = (64, 512, 128)
executed = pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")


def attention(heads: int, width: int, rows: int, chosen: int = 0, ratio: int = 0) -> Case:
    """One attention: of the window, and of all entries or of chosen ones, some of them none."""
    rest: tuple[object, ...] = (StateType("entries", width, ratio=ratio),) if ratio else ()
    rest += (i32(B, S, chosen),) if chosen else ()
    types = (f32(B, S, heads, width), f32(B, S, width), f32(heads), f32(2),
             StateType("ring", width, rows), PLACES, PLACES, *rest)
    return Case("hybrid_attention", types, {"scale": width**-0.5}, (plain, outliers),
                values={"index": integers(-1, 9)})


def unit(case: Case, shape: str = "prefill", chip: str = "cambricon-mlu590") -> Unit:
    """The case's kernel, the target's own."""
    return next(u for u in units(targets.find(chip), {case.op: [case]})
                if (u.shape, u.how) == (shape, "native"))


@pytest.mark.parametrize("chip", CHIPS, ids=lambda c: c.name)
@pytest.mark.parametrize("case", [attention(*FLASH, 512, 4), attention(128, 512, 128, 0, 8),
                                  attention(3, 8, 5)], ids=["flash", "pro", "small"])
def test_window_and_entries_are_one_list(case, chip) -> None:
    for shape in ("prefill", "decode"):
        (kernel,) = unit(case, shape, chip.name).kernels
        made = source(chip, kernel)
        assert text(made).count("__bang_matmul") == 2
        assert text(made).count("// attention") == 1
        assert broken(text(made)) == []
        assert made.resources["nram_bytes"] <= chip.nram - RESERVED
        plain_ = text(source(chip, kernel, matrix=False))
        assert "__bang_matmul" not in plain_
        assert "// attention" not in plain_
        # the ring's rows are read where they are; what is left is rope's
        assert text(made).count("// concat") == plain_.count("// concat") - 2


def test_the_ring_is_written_after_its_old_rows_were_read() -> None:
    (kernel,) = unit(attention(4, 32, 8, 6, 4)).kernels
    first, *rest = fused(kernel, program(kernel)).steps
    assert isinstance(first, Attention)
    assert "window" not in first.read
    assert first.read["ring"] in [getattr(s, "buffer", None) for s in rest]


@executed
@pytest.mark.chip
@pytest.mark.parametrize("chip", CHIPS, ids=lambda c: c.name)
@pytest.mark.parametrize(("case", "tokens"), [
    (attention(*FLASH, 12, 4), 3), (attention(128, 512, 20, 0, 8), 2), (attention(20, 48, 7), 19),
    (attention(5, 24, 70, 9, 4), 33), (attention(1, 16, 1, 3, 4), 5)],
    ids=["flash", "pro", "window", "odd", "one row"])
def test_it_computes_what_numpy_does(case, tokens, chip, tmp_path: Path) -> None:
    """From the first token on, at the window's end, and where both have been left behind."""
    one = unit(case, "prefill", chip.name)
    made = source(chip, one.kernels[0])
    sizes = {"B": 1, "S": tokens, "C": CONTEXT}
    for seed, (pos, change, order) in enumerate([
            (0, plain, "dma late"), (17, outliers, "dma late"), (37, plain, "compute late")]):
        operands = list(case.operands(np.random.default_rng(seed), sizes, pos, change))
        executor = Counting(chip, {made.entry: made}, tmp_path, order=order)
        got = Run(executor, None, one, operands, sizes).results
        want = run(one.meaning, "main", [o.value for o in operands], sizes)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=3e-6 * np.abs(b).max())


@executed
@pytest.mark.chip
def test_a_key_is_fetched_once_for_the_heads_of_a_round(tmp_path: Path) -> None:
    heads, width, rows, chosen = 16, 64, 24, 40
    one = unit(attention(heads, width, rows, chosen, 4), "decode")
    made = source(MLU590, one.kernels[0])
    sizes = {"B": 1, "S": 1, "C": CONTEXT}
    operands = list(one.case.operands(np.random.default_rng(0), sizes, 300, plain))
    executor = Counting(MLU590, {made.entry: made}, tmp_path)
    Run(executor, None, one, operands, sizes)
    seen = rows + int((operands[-1].value >= 0).sum())
    keys, queries = 4 * width * seen, 4 * width * heads
    others = 4 * (chosen + heads)                   # the list and the sinks
    rest = 4 * (width + width * heads)              # a row for the ring, and what rope turns
    assert keys + queries + others <= executor.moved["GDRAM2NRAM"]
    assert executor.moved["GDRAM2NRAM"] <= keys + queries + others + rest + 4096


@executed
@pytest.mark.chip
def test_each_sync_matters_or_protects_nothing(tmp_path: Path) -> None:
    one = unit(attention(4, 32, 40, 30, 4))
    made = source(MLU590, one.kernels[0])
    found = sweep(one, targets.find("cambricon-mlu590"), Trying(MLU590, {made.entry: made},
                                                                tmp_path))
    assert found.alarm == ""
    assert [f for f in found.faults if f.verdict == "missed"] == []
    caught = {f.text for f in found.faults if f.verdict == "caught"}
    assert {"__sync_move();", "__sync_compute();", "__sync_io();"} <= caught
