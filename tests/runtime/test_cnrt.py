"""The cnrt launcher's driver and queue on libraries that check every call."""

import ctypes
import gc
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from firstlight.runtime.device import Call, DeviceError, Pointer
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers import cnrt

SOURCE = Path(__file__).parents[1] / "support/fake_cnrt.c"
pytestmark = [pytest.mark.chip, pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("cnrt") / "libfake.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", str(SOURCE), "-o", str(path)], check=True)
    return path


@pytest.fixture
def driver(library, monkeypatch, tmp_path):
    """A driver of one device; nothing of it is left behind."""
    monkeypatch.setenv(cnrt.CNRT, str(library))
    monkeypatch.setenv(cnrt.CNDRV, str(library))
    made = cnrt.CnrtDriver(SimpleNamespace(directory=tmp_path))
    yield made
    made.close()
    gc.collect()
    assert ctypes.CDLL(str(library)).fake_left() == 0


def loaded(driver, folder: Path, text: str = "one_more 2\nother 1\n"):
    """The kernels of a fat binary beside its source."""
    (folder / "kernels.cnfatbin").write_text(text)
    return driver.load(folder / "kernels.mlu", ["one_more"])


def call(function, x, out, work, tasks: int = 4, tokens: int = 5) -> Call:
    return Call(function, (tasks, 1, 1), (4,), 0, (Pointer(x), Pointer(out, 64), Pointer(work),
                                                  tokens))


def test_a_kernel_runs_again_and_again(driver, tmp_path):
    function = loaded(driver, tmp_path)["one_more"]
    queue = driver.queue()
    x, out, work = queue.allocate(64), queue.allocate(128), queue.allocate(64)
    bound = queue.bind([call(function, x, out, work)])
    for start in (0, 10):
        data = np.arange(start, start + 5, dtype=np.float32)
        queue.write(x, 0, data.view(np.uint8))
        queue.run(bound)
        got = np.empty(32, np.float32)
        queue.read(out, 0, got.view(np.uint8))
        assert got[:16].tolist() == [0] * 16        # memory begins as zeros
        assert got[16:21].tolist() == (data + 1).tolist()


def test_what_the_driver_refuses_is_said(driver, tmp_path):
    function = loaded(driver, tmp_path)["one_more"]
    queue = driver.queue()
    x, out, work = queue.allocate(64), queue.allocate(128), queue.allocate(64)
    with pytest.raises(DeviceError, match="cnInvokeKernel"):
        queue.run(queue.bind([call(function, x, out, work, tasks=6)]))
    with pytest.raises(DeviceError, match="outside of the device's memory"):
        queue.write(x, 32, np.zeros(64, np.uint8))
    queue.run(queue.bind([call(function, x, out, work, tokens=500)]))
    with pytest.raises(DeviceError, match="went outside"):
        queue.finish()


def test_kernels_that_are_not_compiled_or_not_there(driver, tmp_path):
    with pytest.raises(FirstlightError, match="F518"):
        driver.load(tmp_path / "kernels.mlu", ["one_more"])
    with pytest.raises(FirstlightError, match="F502"):
        loaded(driver, tmp_path, "other 1\n")
    with pytest.raises(FirstlightError, match="F517"):
        loaded(driver, tmp_path, "")


@pytest.mark.parametrize("number", ["1", "x"])
def test_a_device_that_there_is_not(driver, monkeypatch, tmp_path, number):
    monkeypatch.setenv("FIRSTLIGHT_DEVICE", number)
    with pytest.raises(FirstlightError, match="F516"):
        cnrt.CnrtDriver(SimpleNamespace(directory=tmp_path))


def test_no_driver_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv(cnrt.CNRT, str(tmp_path / "none.so"))
    with pytest.raises(FirstlightError, match="F516"):
        cnrt.CnrtDriver(SimpleNamespace(directory=tmp_path))


def test_a_closed_model_is_refused(driver):
    queue = driver.queue()
    driver.close()
    with pytest.raises(DeviceError, match="closed"):
        queue.allocate(64)
