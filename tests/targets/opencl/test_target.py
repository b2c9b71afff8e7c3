"""OpenCL text, and its kernels held against numpy by the kit."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.simt import Scheduled, scheduled
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType
from firstlight.runtime.device import Call, DeviceError, Pointer
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.opencl import OpenClDriver
from firstlight.targets import find
from firstlight.targets.opencl.source import source
from support.simt import chip, generic


def relu() -> Scheduled:
    """relu of [1, S, 24]."""
    module = Module({"main": trace("main", lambda x: x.emit("relu"),
                                   [TensorType((1, S, 24), "f32")])})
    return scheduled(generic("relu", module), chip())


@pytest.fixture
def driver() -> OpenClDriver:
    return OpenClDriver("here")


def test_some_ops_conform() -> None:
    """A process of its own: the kit forks, and one that has used the driver must not."""
    ops = "top_k,ring_write"
    done = subprocess.run([sys.executable, "-m", "firstlight.cli", "conform", "opencl", "-q",
                           "--level", "run", "--ops", ops], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed, 0 failed, 0 skipped, 0 missing" in done.stdout


def test_a_forked_process_is_told_why_there_is_no_device(driver: OpenClDriver) -> None:
    """Where it would wait forever for threads that it does not have."""
    context = multiprocessing.get_context("fork")
    answer, send = context.Pipe(duplex=False)

    def ask() -> None:
        try:
            OpenClDriver("here")
        except FirstlightError as error:
            send.send(error.why)

    child = context.Process(target=ask)
    child.start()
    assert answer.poll(60)
    assert "forked" in answer.recv()
    child.join()


def test_a_pointer_is_a_buffer_and_a_place_in_it() -> None:
    text = source(relu())
    assert "__kernel void relu_0(__global float* x_buffer, ulong x_at," in text
    assert "__global float* x = (__global float*)((__global uchar*)x_buffer + x_at);" in text


@pytest.fixture
def bound(driver: OpenClDriver, tmp_path: Path):
    """A queue, and relu on 96 floats from byte 64 of a buffer on."""
    (tmp_path / "relu.cl").write_text(source(relu()))
    (phase,) = relu().phases
    function = driver.load(tmp_path / "relu.cl", [phase.entry])[phase.entry]
    queue = driver.queue()
    memory = queue.allocate(1024)
    x = np.arange(-48, 48, dtype=np.float32)
    queue.write(memory, 64, x.view(np.uint8))
    return queue, Call(function, (2,), phase.group, 0,
                       (Pointer(memory, 64), Pointer(memory, 512), 4)), memory, x


def test_a_launch_writes_where_it_is_told(bound) -> None:
    queue, call, memory, x = bound
    queue.run(queue.bind([call]))
    out = np.zeros(1024, np.uint8)
    queue.read(memory, 0, out)
    assert (out[512:896].view(np.float32) == np.maximum(x, 0)).all()
    assert (out[64:448].view(np.float32) == x).all()
    assert not out[448:512].any()
    assert not out[896:].any()


@pytest.mark.parametrize(("change", "what"), [
    (lambda c: c.args[:2], "takes 5 arguments, launch.json gives 4"),
    (lambda c: (*c.args, 1), "gives 6"),
    (lambda c: (c.args[0], 5, 4), "gives 4"),
])
def test_a_wrong_number_of_arguments(bound, change, what: str) -> None:
    queue, call, *_ = bound
    with pytest.raises(DeviceError, match=what):
        queue.bind([Call(call.function, call.grid, call.group, 0, change(call))])


def test_a_group_beyond_the_limits(bound, driver: OpenClDriver) -> None:
    queue, call, *_ = bound
    most = driver.device.max_work_group_size
    with pytest.raises(DeviceError, match=r"WORK_GROUP_SIZE|work.group"):
        queue.run(queue.bind([Call(call.function, (1,), (2 * most,), 0, call.args)]))


def test_memory_that_there_is_not(driver: OpenClDriver) -> None:
    with pytest.raises(DeviceError, match="at a time"):
        driver.queue().allocate(driver.device.max_mem_alloc_size + 1)


def test_a_refused_source_and_a_missing_kernel(driver: OpenClDriver, tmp_path: Path) -> None:
    (tmp_path / "bad.cl").write_text("__kernel void f() { g(); }")
    with pytest.raises(FirstlightError, match="F517"):
        driver.load(tmp_path / "bad.cl", ["f"])
    (tmp_path / "good.cl").write_text("__kernel void f() { }")
    with pytest.raises(FirstlightError, match="F502"):
        driver.load(tmp_path / "good.cl", ["g"])


def test_without_package_or_device_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PYOPENCL_CTX", "no such device")
    with pytest.raises(FirstlightError, match="F516") as caught:
        OpenClDriver("here")
    assert "pip install" in caught.value.try_
    (tool,) = find("opencl").tools()
    assert (tool.found, tool.get) == (None, "pip install 'firstlight[opencl]'")
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(FirstlightError, match="F515"):
        OpenClDriver("here")
