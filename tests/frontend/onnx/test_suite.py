"""The backend suite of the package onnx: what we support is right, by references and kernels."""

import re
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")

from firstlight.codegen.compile import CompileOptions  # noqa: E402
from firstlight.frontend.onnx.apart import Apart  # noqa: E402
from firstlight.frontend.onnx.table import support_table  # noqa: E402
from firstlight.onnx_compiler import compile_onnx  # noqa: E402
from firstlight.runtime import load  # noqa: E402
from support import onnx_suite as suite  # noqa: E402

TARGET = "cpu-x86-64-v3"
DOCS = Path(__file__).parents[3] / "docs" / "onnx.md"


def outcomes(files=()):
    with Apart() as apart:
        return [suite.outcome(case, apart) for case in suite.cases(files=files)]


def wrong(found):
    """Wrong results, and refusals that are mistakes of ours."""
    return [f"{o.case.name}: {o.why}" for o in found
            if o.what == "wrong" or "do not fit" in o.why]


@pytest.fixture(scope="module")
def quick():
    return outcomes(suite.QUICK)


def test_cases_of_transformers_operators_are_right(quick):
    """By the references of the IR; what cannot be imported is refused, never wrong."""
    assert not wrong(quick)
    assert sum(o.what != "refused" for o in quick) >= 450


def test_and_so_are_their_kernels(quick, tmp_path):
    """A dozen cases of all kinds as one artifact."""
    good = [o.case for o in quick if o.what != "refused" and joinable(o.case)
            and suite.opset_of(o.case) == 23]
    assert not compiled(good[::max(len(good) // 12, 1)], tmp_path)


@pytest.mark.slow
def test_the_whole_suite_and_its_numbers_in_the_docs(tmp_path):
    """References and kernels; the docs have what is counted here."""
    found = outcomes()
    assert not wrong(found)
    assert suite.numbers(found) in " ".join(DOCS.read_text().split())
    groups = {}
    for o in found:
        if o.what != "refused" and joinable(o.case):
            groups.setdefault(suite.opset_of(o.case), []).append(o.case)
    bad = []
    for opset, group in groups.items():
        for at in range(0, len(group), 60):
            bad += compiled(group[at:at + 60], tmp_path / f"{opset}-{at}")
    assert not bad


def joinable(case):
    """Whether the case can stand beside others: it has inputs, and no subgraphs."""
    return case.model.graph.input and not any(
        a.type in (a.GRAPH, a.GRAPHS) for node in case.model.graph.node for a in node.attribute)


def compiled(cases, folder):
    """What is wrong with cases that are compiled side by side."""
    folder.mkdir(exist_ok=True)
    model, given = suite.joined(cases)
    onnx.save(model, folder / "m.onnx")
    compile_onnx(folder / "m.onnx", folder / "out", CompileOptions(target=TARGET), {})
    with load(folder / "out") as graph:
        found = graph.run({name: array.astype(np.float32) if str(array.dtype) == "bfloat16"
                           else array for name, array in given.items()})
    bad = []
    for i, case in enumerate(cases):
        own = {name.removeprefix(f"c{i}."): array for name, array in found.items()
               if name.startswith(f"c{i}.")}
        why, _ = suite.difference(case, own)
        bad += [f"{case.name}: {why}"] if why else []
    return bad


def test_the_docs_have_the_table_of_the_rows():
    """What stands between the two lines is `firstlight.frontend.onnx.support_table()`."""
    found = re.search(r"<!-- rows -->\n(.*?)\n<!-- end -->", DOCS.read_text(), re.DOTALL)
    assert found
    assert found[1] == support_table()
