"""What runs kernels for the kit: the GPU of this machine, or a target that does without one."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.libcuda import LIBRARY
from firstlight.targets import find
from support.fake_libcuda import Executor, Fake
from support.packed import FP4, random_weight

from .conftest import kernels

X = np.random.default_rng(5).standard_normal((1, 3, 64), np.float32)


def test_where_there_is_a_gpu_its_cubins_are_run(machine: Fake, built: Path, tmp_path: Path
                                                 ) -> None:
    """Arrays go to its memory and come back; nothing is run in its place."""
    seen = []

    @Executor
    def run(name, grid, group, parameters, size) -> None:
        seen.append(name)
        x, y = (int.from_bytes(ctypes.string_at(parameters + at, 8), "little") for at in (0, 8))
        values = np.frombuffer(ctypes.string_at(x, X.nbytes), np.float32)
        ctypes.memmove(y, np.maximum(values, 0).tobytes(), X.nbytes)

    machine.fake_set_executor(run)
    executor = find("cuda-sm90").emulate({"relu": kernels()["relu"]}, tmp_path)
    y = np.zeros_like(X)
    executor.run("relu", [X, y], 3)
    machine.fake_set_executor(None)
    assert seen == [b"relu_0"]
    assert (y == np.maximum(X, 0)).all()
    assert getattr(executor, "note", "") == ""


@pytest.mark.parametrize("name", ["cuda-sm80", "cuda-sm100"])
def test_a_gpu_of_another_chip_is_not_used(machine: Fake, name: str, tmp_path: Path) -> None:
    executor = find(name).emulate({}, tmp_path)
    assert executor is None or "were not run" in executor.note
    assert machine.count("cuModuleLoadData") == 0


def test_without_one_the_same_launches_run_elsewhere_and_it_is_said(monkeypatch, tmp_path: Path
                                                                    ) -> None:
    monkeypatch.setenv(LIBRARY, "/nowhere/libcuda.so.1")
    executor = find("cuda-sm90").emulate(kernels(), tmp_path)
    if executor is None:
        pytest.skip(f"needs an OpenCL device: {find('opencl').tools()[0].get}")
    assert "as the text of target opencl" in executor.note
    assert "the cubins were not run" in executor.note
    weight = random_weight(np.random.default_rng(6), FP4, (32, 64))
    y = np.zeros((1, 3, 32), np.float32)
    executor.run("linear", [X, weight.codes, weight.scales, y], 3)
    want = X.astype(np.float64) @ weight.value.T
    assert np.abs(y - want).max() < 2e-6 * np.abs(want).max()


def test_the_target_of_this_machine(machine: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("cuda").name == "cuda-sm90"
    monkeypatch.setenv(LIBRARY, "/nowhere/libcuda.so.1")
    with pytest.raises(FirstlightError, match="F432"):
        find("cuda")
