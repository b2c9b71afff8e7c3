"""The fake driver refuses what a real one would, each case planted: it is what tests rely on."""

import ctypes
import json
from pathlib import Path

import pytest

from support.fake_libcuda import Fake

INVALID_VALUE, INVALID_CONTEXT, NO_BINARY, UNSUPPORTED_PTX = 1, 201, 209, 222
INVALID_HANDLE, NOT_FOUND, ILLEGAL_ADDRESS, OUT_OF_RESOURCES = 400, 500, 700, 701
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901
P, U = ctypes.c_void_p, ctypes.c_uint


class Gpu:
    """A context, a stream, a module with the kernel relu(float*, float*, int), and memory."""

    def __init__(self, fake: Fake, cubin: bytes) -> None:
        self.fake = fake
        self.context, self.stream, self.module, self.relu = P(), P(), P(), P()
        self.x, self.y = P(), P()
        self("cuInit", 0)
        self("cuDevicePrimaryCtxRetain", self.context, 0)
        self("cuCtxPushCurrent_v2", self.context)
        self("cuStreamCreate", self.stream, 1)
        self("cuModuleLoadData", self.module, cubin)
        self("cuModuleGetFunction", self.relu, self.module, b"relu_0")
        self("cuMemAlloc_v2", self.x, ctypes.c_size_t(4096))
        self("cuMemAlloc_v2", self.y, ctypes.c_size_t(4096))

    def status(self, name: str, *arguments: object) -> int:
        """Call a function; handles that it makes are passed by reference."""
        makes = {"cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuModuleLoadData", "cuMemAlloc_v2",
                 "cuModuleGetFunction", "cuGraphInstantiateWithFlags"}
        given = [ctypes.byref(a) if i == (0 if name in makes else -1) and isinstance(a, P) else a
                 for i, a in enumerate(arguments)]
        return getattr(self.fake, name)(*given)

    def __call__(self, name: str, *arguments: object) -> None:
        assert self.status(name, *arguments) == 0, self.fake.error()

    def launch(self, arguments: bytes | None = None, grid=(1, 1, 1), group=(64, 1, 1), shared=0,
               function=None, stream=None) -> int:
        if arguments is None:
            arguments = address(self.x) + address(self.y) + (1).to_bytes(4, "little")
        buffer, size = ctypes.create_string_buffer(arguments), ctypes.c_size_t(len(arguments))
        extra = (P * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
        return self.fake.cuLaunchKernel(function or self.relu, *map(U, grid), *map(U, group),
                                        U(shared), stream or self.stream, None, extra)

    def close(self) -> None:
        self("cuCtxPopCurrent_v2", None)
        self("cuDevicePrimaryCtxRelease_v2", 0)


def address(pointer: P, offset: int = 0) -> bytes:
    return (pointer.value + offset).to_bytes(8, "little")


@pytest.fixture
def gpu(machine: Fake, built: Path):
    table = json.loads((built / "code/launch.json").read_text())
    (relu,) = table["kernels"]["relu"]["launches"]
    assert relu["args"] == [0, 1, "S"]
    made = Gpu(machine, (built / "code" / table["modules"][relu["module"]]).read_bytes())
    yield made
    made.close()


def test_a_right_launch_is_accepted(gpu: Gpu) -> None:
    assert gpu.launch() == 0
    assert gpu.fake.count("kernels") == 0        # not yet
    gpu("cuStreamSynchronize", gpu.stream)
    assert gpu.fake.count("kernels") == 1


@pytest.mark.parametrize(("arguments", "what"), [
    (lambda g: address(g.x) + address(g.y), "takes 20 bytes of arguments, not 16"),
    (lambda g: address(g.x) + address(g.y) + bytes(8), "not 24"),
    (lambda g: address(g.x)[:4] + address(g.y) + bytes(4), "not 16"),
    (lambda g: address(g.x) + address(g.y) + bytes(8) + address(g.x), "not 32"),
])
def test_a_wrong_number_or_size_of_arguments(gpu: Gpu, arguments, what: str) -> None:
    assert gpu.launch(arguments(gpu)) == INVALID_VALUE
    assert what in gpu.fake.error()


def test_the_parameters_are_those_of_the_cubin(gpu: Gpu) -> None:
    offset, size, found = ctypes.c_size_t(), ctypes.c_size_t(), []
    while not gpu.fake.cuFuncGetParamInfo(gpu.relu, ctypes.c_size_t(len(found)),
                                          ctypes.byref(offset), ctypes.byref(size)):
        found.append((offset.value, size.value))
    assert found == [(0, 8), (8, 8), (16, 4)]


def test_an_unknown_function(gpu: Gpu) -> None:
    assert gpu.status("cuModuleGetFunction", P(), gpu.module, b"relu_7") == NOT_FOUND


@pytest.mark.parametrize(("limits", "status"), [
    ({"grid": (0, 1, 1)}, INVALID_VALUE), ({"grid": (1, 1 << 16, 1)}, INVALID_VALUE),
    ({"grid": (1 << 31, 1, 1)}, INVALID_VALUE), ({"grid": (1, 1, 1 << 16)}, INVALID_VALUE),
    ({"group": (1025, 1, 1)}, INVALID_VALUE), ({"group": (32, 64, 1)}, INVALID_VALUE),
    ({"group": (1, 1, 65)}, INVALID_VALUE), ({"group": (0, 1, 1)}, INVALID_VALUE),
    ({"group": (1024, 1, 1)}, OUT_OF_RESOURCES), ({"shared": 49153}, OUT_OF_RESOURCES),
])
def test_a_launch_beyond_the_limits(gpu: Gpu, limits: dict, status: int) -> None:
    assert gpu.launch(**limits) == status


def test_the_limits_themselves_are_accepted(gpu: Gpu) -> None:
    assert gpu.launch(grid=((1 << 31) - 1, 1, 1), shared=49152) == 0
    assert gpu.launch(grid=(1, 65535, 65535)) == 0


def test_a_freed_pointer(gpu: Gpu) -> None:
    gpu("cuMemFree_v2", gpu.y)
    assert gpu.launch() == ILLEGAL_ADDRESS
    assert "freed memory" in gpu.fake.error()
    assert gpu.status("cuMemFree_v2", gpu.y) == INVALID_VALUE
    assert gpu.status("cuMemsetD8Async", gpu.y, 0, ctypes.c_size_t(4), gpu.stream) == INVALID_VALUE


def test_a_pointer_that_points_nowhere(gpu: Gpu) -> None:
    for pointer in (bytes(8), address(gpu.x, 1 << 40)):
        assert gpu.launch(pointer + address(gpu.y) + bytes(4)) == ILLEGAL_ADDRESS


def test_a_copy_beyond_the_memory(gpu: Gpu) -> None:
    host = ctypes.create_string_buffer(8192)
    for size, status in ((4096, 0), (4097, INVALID_VALUE)):
        bytes_ = ctypes.c_size_t(size)
        assert gpu.fake.cuMemcpyHtoDAsync_v2(gpu.x, host, bytes_, gpu.stream) == status
        assert gpu.fake.cuMemcpyDtoHAsync_v2(host, gpu.x, bytes_, gpu.stream) == status


def test_memory_that_is_freed_while_work_waits_for_it(gpu: Gpu) -> None:
    assert gpu.launch() == 0
    gpu("cuMemFree_v2", gpu.x)
    assert gpu.status("cuStreamSynchronize", gpu.stream) == ILLEGAL_ADDRESS


def test_a_destroyed_stream(gpu: Gpu) -> None:
    gpu("cuStreamDestroy_v2", gpu.stream)
    assert gpu.launch() == INVALID_HANDLE
    assert gpu.status("cuStreamSynchronize", gpu.stream) == INVALID_HANDLE
    assert gpu.status("cuStreamDestroy_v2", gpu.stream) == INVALID_HANDLE


def test_an_unloaded_module(gpu: Gpu) -> None:
    gpu("cuModuleUnload", gpu.module)
    assert gpu.launch() == INVALID_HANDLE
    assert gpu.status("cuModuleGetFunction", P(), gpu.module, b"relu_0") == INVALID_HANDLE


def test_no_context(gpu: Gpu) -> None:
    gpu("cuCtxPopCurrent_v2", None)
    assert gpu.launch() == INVALID_CONTEXT
    assert gpu.status("cuMemAlloc_v2", P(), ctypes.c_size_t(64)) == INVALID_CONTEXT
    gpu("cuCtxPushCurrent_v2", gpu.context)


def graph_of(gpu: Gpu) -> P:
    graph, executable = P(), P()
    gpu("cuStreamBeginCapture_v2", gpu.stream, 2)
    assert gpu.launch() == 0
    assert gpu.fake.cuStreamEndCapture(gpu.stream, ctypes.byref(graph)) == 0
    gpu("cuGraphInstantiateWithFlags", executable, graph, ctypes.c_ulonglong(0))
    return executable


def test_a_graph_does_its_work_each_time_it_is_launched(gpu: Gpu) -> None:
    graph = graph_of(gpu)
    assert gpu.fake.count("kernels") == 0
    for times in (1, 2):
        assert gpu.fake.cuGraphLaunch(graph, gpu.stream) == 0
        gpu("cuStreamSynchronize", gpu.stream)
        assert gpu.fake.count("kernels") == times


def test_a_graph_whose_memory_or_module_is_gone(gpu: Gpu) -> None:
    graph = graph_of(gpu)
    gpu("cuMemFree_v2", gpu.x)
    assert gpu.fake.cuGraphLaunch(graph, gpu.stream) == ILLEGAL_ADDRESS
    gpu("cuModuleUnload", gpu.module)
    assert gpu.fake.cuGraphLaunch(graph, gpu.stream) == INVALID_HANDLE
    gpu("cuGraphExecDestroy", graph)
    assert gpu.fake.cuGraphLaunch(graph, gpu.stream) == INVALID_VALUE


@pytest.mark.parametrize("breaks", ["wait", "launch"])
def test_a_broken_capture(gpu: Gpu, breaks: str) -> None:
    gpu("cuStreamBeginCapture_v2", gpu.stream, 2)
    if breaks == "wait":
        assert gpu.status("cuStreamSynchronize", gpu.stream) == CAPTURE_UNSUPPORTED
    else:
        assert gpu.launch(grid=(0, 1, 1)) == INVALID_VALUE
    assert gpu.launch() == CAPTURE_INVALIDATED
    graph = P()
    assert gpu.fake.cuStreamEndCapture(gpu.stream, ctypes.byref(graph)) == CAPTURE_INVALIDATED
    assert not graph.value
    assert gpu.launch() == 0


def test_memory_during_a_capture(gpu: Gpu) -> None:
    """Refused in the modes that protect a thread, allowed in the relaxed one."""
    for mode, status in ((0, CAPTURE_UNSUPPORTED), (1, CAPTURE_UNSUPPORTED), (2, 0)):
        gpu("cuStreamBeginCapture_v2", gpu.stream, mode)
        assert gpu.status("cuMemAlloc_v2", P(), ctypes.c_size_t(64)) == status
        assert gpu.fake.cuStreamEndCapture(gpu.stream, ctypes.byref(P())) == 0


def test_a_result_is_there_only_after_waiting(gpu: Gpu) -> None:
    host = ctypes.create_string_buffer(b"before", 8)
    gpu("cuMemsetD8Async", gpu.x, ord("a"), ctypes.c_size_t(8), gpu.stream)
    assert gpu.fake.cuMemcpyDtoHAsync_v2(host, gpu.x, ctypes.c_size_t(4), gpu.stream) == 0
    assert host.value == b"before"
    gpu("cuStreamSynchronize", gpu.stream)
    assert host.value == b"aaaare"


def test_code_for_another_chip(gpu: Gpu, machine: Fake, built: Path) -> None:
    cubin, ptx = ((built / f"code/model-0.{kind}").read_bytes() for kind in ("cubin", "ptx"))
    for setting, value, image, status in (
        ("capability", 100, cubin, NO_BINARY), ("capability", 89, cubin, NO_BINARY),
        ("capability", 100, ptx, 0), ("capability", 89, ptx, NO_BINARY),
        ("driver", 12090, cubin, NO_BINARY), ("driver", 13000, ptx, UNSUPPORTED_PTX),
    ):
        machine.reset()
        machine.set("driver", 13090)
        machine.set(setting, value)
        assert gpu.status("cuModuleLoadData", P(), image + b"\0") == status, (setting, value)
