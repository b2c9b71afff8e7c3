"""Public kernels that the emulator was not written for: Cambricon/mlu-ops, in a folder MLU_OPS.

What the last run on a full set of files said is docs/conformance/cambricon/mlu-ops.json.
"""

from __future__ import annotations

import os

import pytest

from firstlight.targets.cambricon.bang_library import compilers
from support import mlu_ops
from support.mlu_ops_cases import CASES

pytestmark = [
    pytest.mark.chip, pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("MLU_OPS"), reason="MLU_OPS names no clone of mlu-ops"),
    pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")]


def test_files_compile() -> None:
    refused = {path: said for path in mlu_ops.files() if (said := mlu_ops.refused(path))}
    assert len(mlu_ops.files()) - len(refused) >= 39, refused


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_computes_what_numpy_does(name: str) -> None:
    judged = mlu_ops.judged(CASES[name])
    assert judged["right"], judged["said"]
