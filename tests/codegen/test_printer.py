"""Kernels as text: what is printed computes what the references say, in each of the styles."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.printer import CPrinter, SimtPrinter, VectorPrinter
from firstlight.codegen.printer.expressions import atomic
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.codegen.walk import Walker
from firstlight.ir import dims
from firstlight.ir.types import TensorType
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.conform import primitives
from firstlight.targets.conform.cases import Case
from support.judged import judge_family
from support.printed import Printed

PRINTERS = {p.__name__: p for p in (CPrinter, SimtPrinter, VectorPrinter)}
X = TensorType((dims.B, dims.S, 64), "f32")
W = TensorType((64,), "f32", "bf16")


def rms_norm() -> Kernel:
    module = Case("rms_norm", (X, W), {"eps": 1e-6}).module({"B": 1})
    return generic_kernel("norm", module["main"].ops[-1], module)


@pytest.mark.parametrize(("printer", "family"), [
    *((p, f) for p in ("SimtPrinter", "VectorPrinter") for f in primitives.FAMILIES),
    *(pytest.param(p, "wide", marks=pytest.mark.slow) for p in PRINTERS)])
def test_text_computes_what_the_references_say(printer: str, family: str, tmp_path: Path) -> None:
    judge_family(family, tmp_path, lambda kernels, folder: Printed(kernels, folder,
                                                                   PRINTERS[printer]), coded=False)


@pytest.mark.parametrize("printer", PRINTERS)
def test_the_same_kernel_gives_the_same_text(printer: str) -> None:
    first, second = (PRINTERS[printer]().source(rms_norm()) for _ in range(2))
    assert first == second
    assert first.files["norm.c"].isascii()


def test_buffers_that_do_not_fit_lie_in_the_workspace() -> None:
    roomy, tight = (CPrinter(size).source(rms_norm()) for size in (1 << 14, 0))
    assert 0 < roomy.resources["scratch_bytes"] <= 1 << 14
    assert tight.resources["scratch_bytes"] == 0
    assert b"float total[16]" in roomy.files["norm.c"]
    assert b"float *total = (float *)(workspace + " in tight.files["norm.c"]


def test_an_array_of_one_thread_must_fit() -> None:
    case = next(c for c in primitives.primitives() if c.op == "linear")
    module = case.module({"B": 1, "S": 512})
    kernel = generic_kernel("k", module["main"].ops[-1], module)
    assert b"_0(" in SimtPrinter().source(kernel).files["k.c"]
    with pytest.raises(FirstlightError, match="F405") as caught:
        SimtPrinter(local_bytes=8).source(kernel)
    assert "in a parallel loop" in str(caught.value)


def test_an_unknown_node_and_an_unknown_intrinsic_are_named() -> None:
    with pytest.raises(FirstlightError, match="cannot handle the TIR node ndarray"):
        Walker().expr(np.zeros(1))

    def body(x, S):
        y = T.decl_buffer((4,), "float32", data=x)
        T.buffer_store(y, T.erf(y[0]), [0])

    with pytest.raises(FirstlightError, match="intrinsic erf"):
        CPrinter().source(Kernel("k", prim_func("k", [("x", "float32")], body), (None,)))


@pytest.mark.parametrize(("text", "yes"), [
    ("x", True), ("1.5f", True), ("1e-06f", True), ("f(a, g(b))", True), ("x[a + y[0]]", True),
    ("x[0] + y[0]", False), ("-1", False), ("(a) * (b)", False), ("(int)x", False),
])
def test_what_needs_no_parentheses(text: str, yes: bool) -> None:
    assert atomic(text) is yes
