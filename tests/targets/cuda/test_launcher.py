"""The libcuda launcher on a machine that only looks like one with a GPU."""

import ctypes
import dataclasses
import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from firstlight.runtime.device import Call, DeviceError, Pointer
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.libcuda import LibcudaDriver
from firstlight.runtime.launches import table_of
from firstlight.runtime.libcuda import DEVICE, LIBRARY, compute_capability
from support.fake_libcuda import Executor, Fake

from .conftest import Stub

NEEDS = {"compute_capability": "9.0", "cuda": "13.0", "ptx_cuda": "13.5", "driver": "580.65.06"}


def call_of(driver: LibcudaDriver, launches: dict, queue, tokens: int = 3) -> Call:
    """relu on memory of its own."""
    (launch,) = launches["relu"]["launches"]
    path = driver.manifest.path(f"code/model-{launch['module']}.cubin")
    function = driver.load(path, [launch["entry"]])[launch["entry"]]
    x, y = (Pointer(queue.allocate(4096), 64) for _ in range(2))
    return Call(function, (1,), tuple(launch["group"]), 0, (x, y, tokens))


def test_memory_is_zero_and_copies_arrive(driver: LibcudaDriver) -> None:
    queue = driver.queue()
    memory, data = queue.allocate(1000), np.arange(100, dtype=np.uint8)
    out = np.ones(1000, np.uint8)
    queue.read(memory, 0, out)
    assert not out.any()
    queue.write(memory, 128, data)
    queue.read(memory, 120, out[:200])
    assert (out[8:108] == data).all()
    assert not out[:8].any()
    assert not out[108:200].any()
    large = np.ones(5 << 20, np.uint8)            # more than is staged
    big = queue.allocate(large.size)
    queue.write(big, 0, large)
    back = np.zeros_like(large)
    queue.read(big, 0, back)
    assert back.all()


def test_a_list_of_launches_is_one_graph(driver: LibcudaDriver, launches: dict, machine: Fake
                                         ) -> None:
    queue = driver.queue()
    call = call_of(driver, launches, queue)
    bound = queue.bind([call, call, call])
    queue.finish()
    launched, waited = machine.count("cuLaunchKernel"), machine.count("cuStreamSynchronize")
    assert (launched, machine.count("kernels")) == (3, 0)
    for _ in range(4):
        queue.run(bound)
    queue.finish()
    assert machine.count("cuLaunchKernel") == launched
    assert machine.count("cuGraphLaunch") == 4
    assert machine.count("cuStreamSynchronize") == waited + 1
    assert machine.count("kernels") == 12


def test_the_arguments_arrive_as_they_are(driver: LibcudaDriver, launches: dict, machine: Fake
                                          ) -> None:
    seen = []

    @Executor
    def look(name, grid, group, parameters, size):
        seen.append((name, list(grid[:3]), list(group[:3]), ctypes.string_at(parameters, size)))

    machine.fake_set_executor(look)
    queue = driver.queue()
    call = call_of(driver, launches, queue, tokens=7)
    queue.run(queue.bind([call]))
    queue.finish()
    addresses = [(p.memory.address + 64).to_bytes(8, "little") for p in call.args[:2]]
    assert seen == [(b"relu_0", [1, 1, 1], [*call.group, 1, 1],
                     b"".join(addresses) + (7).to_bytes(4, "little"))]


@pytest.mark.parametrize(("change", "what"), [
    (lambda c: {"args": c.args[:2]}, r"takes parameters of \(8, 8, 4\) bytes, .* gives \(8, 8\)"),
    (lambda c: {"args": (*c.args, 1)}, "gives .8, 8, 4, 4."),
    (lambda c: {"args": (c.args[0], 5, c.args[2])}, "gives .8, 4, 4."),
    (lambda c: {"group": (2048,)}, "is for groups of"),
    (lambda c: {"grid": (1, 70000)}, "grid of 1 x 70000"),
    (lambda c: {"shared": 1 << 20}, "shared memory"),
    (lambda c: {"args": (Pointer(c.args[0].memory, 1 << 40), *c.args[1:])}, "no memory of the"),
])
def test_a_wrong_launch_is_an_error_with_a_reason(driver, launches, machine, change, what: str
                                                  ) -> None:
    """And the queue can be used afterwards: no capture is left open."""
    queue = driver.queue()
    call = call_of(driver, launches, queue)
    with pytest.raises(DeviceError, match=what):
        queue.bind([call, dataclasses.replace(call, **change(call))])
    queue.run(queue.bind([call]))
    queue.finish()
    assert machine.count("kernels") == 1


def test_memory_goes_with_its_handle(driver: LibcudaDriver, machine: Fake) -> None:
    queue = driver.queue()
    before = machine.count("live")
    memory = [queue.allocate(64) for _ in range(5)]
    assert machine.count("live") == before + 5
    del memory[:3]
    gc.collect()
    assert machine.count("live") == before + 2


def test_nothing_is_left_when_it_is_closed(machine: Fake, built: Path, launches: dict) -> None:
    before = machine.count("live"), machine.count("retained")
    driver = LibcudaDriver(Stub(built, NEEDS))
    queue = driver.queue()
    bound = queue.bind([call_of(driver, launches, queue)])
    queue.read(queue.allocate(64), 0, np.empty(64, np.uint8))
    assert machine.count("live") > before[0]
    driver.close()
    driver.close()
    assert (machine.count("live"), machine.count("retained")) == before
    with pytest.raises(DeviceError, match="closed"):
        queue.run(bound)
    del queue, bound
    gc.collect()                                  # what was destroyed is not destroyed again


def test_any_thread_may_use_a_queue_and_drop_memory(driver: LibcudaDriver, launches, machine
                                                    ) -> None:
    queue, errors = driver.queue(), []
    bound = queue.bind([call_of(driver, launches, queue)])

    def use() -> None:
        try:
            own = driver.queue()
            memory = own.allocate(256)
            own.write(memory, 0, np.ones(256, np.uint8))
            own.read(memory, 0, np.empty(256, np.uint8))
            queue.run(bound)
            queue.finish()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert machine.count("kernels") == 8


def test_no_memory(driver: LibcudaDriver, machine: Fake) -> None:
    machine.set("memory", 1 << 20)
    with pytest.raises(DeviceError, match="no memory for 2097152 bytes"):
        driver.queue().allocate(1 << 21)


@pytest.mark.parametrize(("capability", "driver", "from_ptx"), [
    (90, 13000, False), (91, 13000, False), (90, 13090, False), (100, 13050, True),
    (120, 14000, True),
])
def test_the_cubin_where_it_fits_else_ptx(machine, built, launches, capability, driver, from_ptx
                                          ) -> None:
    machine.set("capability", capability)
    machine.set("driver", driver)
    made = LibcudaDriver(Stub(built, NEEDS))
    queue = made.queue()
    queue.run(queue.bind([call_of(made, launches, queue)]))
    queue.finish()
    assert made.from_ptx == from_ptx
    assert bool(machine.count("ptx")) == from_ptx
    made.close()


@pytest.mark.parametrize(("capability", "driver", "why", "try_"), [
    (80, 13090, "compute capability 8.0", "for this chip"),
    (89, 13090, "compute capability 8.9", "for this chip"),
    (90, 12090, "its driver CUDA 12.9", "to 580.65.06"),
    (100, 13000, "its driver CUDA 13.0", "update its driver"),
])
def test_a_chip_or_driver_that_cannot_run_it(machine, built, capability, driver, why, try_) -> None:
    machine.set("capability", capability)
    machine.set("driver", driver)
    with pytest.raises(FirstlightError) as caught:
        LibcudaDriver(Stub(built, NEEDS))
    assert caught.value.code == "F510"
    assert why in caught.value.why
    assert try_ in caught.value.try_


@pytest.mark.parametrize(("setting", "why"), [
    ({LIBRARY: "/nowhere/libcuda.so.1"}, "cannot open shared object"),
    ({DEVICE: "1"}, "device 1"), ({DEVICE: "first"}, "devices have numbers"),
])
def test_no_device(machine, built, monkeypatch, setting, why) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FirstlightError) as caught:
        LibcudaDriver(Stub(built, NEEDS))
    assert (caught.value.code, why in caught.value.why) == ("F516", True)
    assert compute_capability() is None


@pytest.mark.parametrize("needs", [{}, NEEDS | {"cuda": "new"}])
def test_a_manifest_that_does_not_say_what_it_needs(machine, built, needs) -> None:
    with pytest.raises(FirstlightError, match="F502"):
        LibcudaDriver(Stub(built, needs))


def test_code_that_the_driver_refuses(driver: LibcudaDriver, built: Path, tmp_path: Path) -> None:
    (tmp_path / "model-0.cubin").write_bytes(b"rubbish")
    with pytest.raises(FirstlightError, match="F517"):
        driver.load(tmp_path / "model-0.cubin", [])
    with pytest.raises(FirstlightError, match="F502"):
        driver.load(built / "code/model-0.cubin", ["relu_0", "relu_1"])


def test_the_table_and_the_cubins_agree(driver: LibcudaDriver, built: Path, launches) -> None:
    """Every launch of every kernel is bound: counts and sizes are those of the compiled code."""
    table = table_of({"schema": 1, "modules": ["model-0.cubin"], "kernels": launches})
    functions = driver.load(built / "code/model-0.cubin", table.entries(0))
    queue = driver.queue()
    memory = Pointer(queue.allocate(1 << 16))
    for kernel in table.kernels.values():
        for launch in kernel.launches:
            args = tuple(3 if a == "S" else memory for a in launch.args)
            queue.bind([Call(functions[launch.entry], (1,), launch.group, 0, args)])
    assert set(functions) == {x.entry for k in table.kernels.values() for x in k.launches}
