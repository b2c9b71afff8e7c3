"""The libcuda launcher: an artifact's cubins, on an NVIDIA GPU, through nothing but its driver.

A session has a stream. A list of launches becomes a graph when it is bound: positions lie in the
arena, so that one graph serves every token, and a token is one launch of it and one wait.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.runtime.device import Bytes, Call, DeviceEngine, DeviceError
from firstlight.runtime.drivers import Memory, check_threads, packed
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.libcuda import UNITS, Device
from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import Program

NON_BLOCKING, RELAXED, MOST_THREADS = 1, 2, 0
"""CU_STREAM_NON_BLOCKING; CU_STREAM_CAPTURE_MODE_RELAXED: memory may go while a graph is made;
CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK."""
BUFFER, SIZE, END = 1, 2, 0
"""CU_LAUNCH_PARAM_*: arguments come as a buffer with its size, which the driver can check."""
STAGED = 4 << 20
"""Results up to so many bytes are read through memory that the device writes directly."""


@dataclass(frozen=True)
class Function:
    """A kernel: its handle, the sizes of its parameters, and the most threads of a group."""

    name: str
    handle: ctypes.c_void_p
    sizes: tuple[int, ...] | None
    threads: int


class Graph:
    """A list of launches, made once; it keeps what it points to."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.handle = ctypes.c_void_p()


class LibcudaDriver:
    """A ``device.Driver``. Raises F516 without a device and F510 for one that is too old."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.device = Device(str(manifest.directory))
        self.from_ptx = _needs_ptx(manifest, self.device)
        self.units = self.device.attribute(UNITS)

    def load(self, path: Path, entries: Sequence[str]) -> Mapping[str, Function]:
        """The kernels of a cubin, or of the PTX beside it."""
        if self.from_ptx:
            name = path.with_suffix(".ptx").relative_to(self.manifest.directory)
            path = self.manifest.path(name.as_posix())
        image = path.read_bytes() + b"\0"
        try:
            with self.device.current() as call:
                module = call.handle("cuModuleLoadData", image)
                self.device.own(self, "cuModuleUnload", module)
        except DeviceError as error:
            raise FirstlightError(
                "F517",
                "the device's driver refuses the code",
                where=f"{path}, {self.device.name}",
                why=str(error),
                try_="update the device's driver, or compile the checkpoint again for this device",
            ) from error
        try:
            with self.device.current():
                return {name: self._function(module, name) for name in entries}
        except DeviceError as error:
            raise malformed(path, f"the code has no such kernel: {error}") from error

    def queue(self) -> LibcudaQueue:
        """A new stream."""
        return LibcudaQueue(self.device)

    def flops(self, repeats: int) -> float:
        """Not measured: no kernel comes with the launcher."""
        return math.nan

    def close(self) -> None:
        """Destroy everything on the device that is ours."""
        self.device.close()

    def _function(self, module: ctypes.c_void_p, name: str) -> Function:
        call = self.device.api
        handle = call.handle("cuModuleGetFunction", module, name.encode())
        # Asking loads the code, too, which must not happen while a graph is made.
        threads = call.number("cuFuncGetAttribute", MOST_THREADS, handle)
        sizes: list[int] | None = None
        if call.has("cuFuncGetParamInfo"):          # since CUDA 12.4
            sizes, offset, size = [], ctypes.c_size_t(), ctypes.c_size_t()
            try:
                while True:                         # until there is no such parameter
                    call("cuFuncGetParamInfo", handle, ctypes.c_size_t(len(sizes)),
                         ctypes.byref(offset), ctypes.byref(size))  # fmt: skip
                    sizes.append(size.value)
            except DeviceError:
                pass
        return Function(name, handle, None if sizes is None else tuple(sizes), threads)


class LibcudaQueue:
    """A ``device.Queue``: a stream, and a piece of host memory that the device can write."""

    def __init__(self, device: Device) -> None:
        self.device = device
        with device.current() as call:
            self.stream = call.handle("cuStreamCreate", NON_BLOCKING)
            device.own(self, "cuStreamDestroy_v2", self.stream)
        self._stage: Bytes | None = None
        self._running: list[Graph] = []     # what they point to is needed until they are done

    def allocate(self, nbytes: int) -> Memory:
        """Memory of zeros, aligned to 256 bytes."""
        with self.device.current() as call:
            address = call.handle("cuMemAlloc_v2", ctypes.c_size_t(nbytes))
            memory = Memory(int(address.value or 0), nbytes)
            self.device.own(memory, "cuMemFree_v2", address)
            call("cuMemsetD8Async", address, 0, ctypes.c_size_t(nbytes), self.stream)
            # zero for every stream, not only for what follows in this one
            call("cuStreamSynchronize", self.stream)
            return memory

    def write(self, memory: Memory, offset: int, data: Bytes) -> None:
        """Copy to the device."""
        with self.device.current() as call:
            call("cuMemcpyHtoDAsync_v2", _address(memory, offset),
                 ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.size), self.stream)

    def read(self, memory: Memory, offset: int, out: Bytes) -> None:
        """Copy from the device after all that was given before; the one wait of a token."""
        with self.device.current() as call:
            to = self._staging(out.size) if out.size <= STAGED else out
            call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(to.ctypes.data),
                 _address(memory, offset), ctypes.c_size_t(out.size), self.stream)
            self._wait()
            if to is not out:
                out[:] = to[: out.size]

    def finish(self) -> None:
        """Wait."""
        with self.device.current():
            self._wait()

    def bind(self, calls: Sequence[Call]) -> Graph:
        """Capture the launches as a graph."""
        graph = Graph(calls)
        with self.device.current() as call:
            call("cuStreamBeginCapture_v2", self.stream, RELAXED)
            captured = ctypes.c_void_p()
            try:
                for one in calls:
                    self._launch(one)
            except BaseException:
                with suppress(DeviceError):
                    call("cuStreamEndCapture", self.stream, ctypes.byref(captured))
                    call("cuGraphDestroy", captured)
                raise
            call("cuStreamEndCapture", self.stream, ctypes.byref(captured))
            try:
                graph.handle = call.handle("cuGraphInstantiateWithFlags", captured,
                                           ctypes.c_ulonglong(0))  # fmt: skip
                self.device.own(graph, "cuGraphExecDestroy", graph.handle)
            finally:
                call("cuGraphDestroy", captured)
        return graph

    def run(self, bound: Graph) -> None:
        """Launch the graph."""
        with self.device.current() as call:
            call("cuGraphLaunch", bound.handle, self.stream)
            self._running.append(bound)

    def _wait(self) -> None:
        self.device.api("cuStreamSynchronize", self.stream)
        self._running.clear()

    def _launch(self, call: Call) -> None:
        function: Function = call.function
        arguments, sizes = packed(call.args)
        if function.sizes is not None and sizes != function.sizes:
            raise DeviceError(f"{function.name} takes parameters of {function.sizes} bytes, "
                              f"launch.json gives {sizes}")  # fmt: skip
        if math.prod(call.group) > function.threads:
            raise DeviceError(f"{function.name} is for groups of {function.threads} threads, "
                              f"launch.json says {call.group}")  # fmt: skip
        size = ctypes.c_size_t(len(arguments))
        buffer = ctypes.create_string_buffer(arguments, len(arguments))
        extra = (ctypes.c_void_p * 5)(BUFFER, ctypes.addressof(buffer), SIZE,
                                      ctypes.addressof(size), END)  # fmt: skip
        grid, group = (n + (1,) * (3 - len(n)) for n in (call.grid, call.group))
        self.device.api("cuLaunchKernel", function.handle, *grid, *group, call.shared, self.stream,
                        None, extra)  # fmt: skip

    def _staging(self, nbytes: int) -> Bytes:
        if self._stage is None or self._stage.size < nbytes:
            address = self.device.api.handle("cuMemAllocHost_v2", ctypes.c_size_t(nbytes))
            raw = (ctypes.c_uint8 * nbytes).from_address(int(address.value or 0))
            self.device.own(raw, "cuMemFreeHost", address)
            self._stage = np.ctypeslib.as_array(raw)
        return self._stage


def _address(memory: Memory, offset: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(memory.address + offset)


def _needs_ptx(manifest: Manifest, device: Device) -> bool:
    """Whether the driver must compile the PTX, because the cubins are for another chip.

    A cubin runs on its compute capability and later minor ones, with any driver of its CUDA major
    version; PTX on every later one, with a driver that knows its version. Raises F510.
    """
    needs = manifest.requires
    try:
        wanted, cuda, ptx = (tuple(map(int, str(needs[key]).split(".")))
                             for key in ("compute_capability", "cuda", "ptx_cuda"))  # fmt: skip
    except (KeyError, ValueError) as error:
        raise malformed(manifest.directory, f"it does not say what it requires: {error}") from error
    have = device.capability
    if have[0] == wanted[0] and have >= wanted and device.cuda >= cuda:
        return False
    if have >= wanted and device.cuda >= ptx:
        return True
    old = device.cuda < cuda if have[0] == wanted[0] and have >= wanted else have >= wanted
    least = ptx if have[0] != wanted[0] else cuda
    raise FirstlightError(
        "F510",
        f"{device.name} cannot run the artifact, which needs compute capability "
        f"{needs['compute_capability']} and CUDA {'.'.join(map(str, least))}",
        where=str(manifest.directory),
        why=f"it has compute capability {have[0]}.{have[1]}, its driver CUDA {device.cuda[0]}."
        f"{device.cuda[1]}",
        try_=f"update its driver (to {needs.get('driver', 'a newer one')} at least)" if old
        else "firstlight compile CHECKPOINT --target    for this chip",
    )


def open_engine(manifest: Manifest, program: Program, threads: int | None = None) -> DeviceEngine:
    """Load an artifact's cubins and upload its weights to a device.

    ``threads`` is checked, and otherwise the device's own affair. Raises F516 without a device or
    driver, F510 if it cannot run the artifact, F517 if its driver refuses the code, F502 if program
    and code disagree, F512 for an impossible number of threads.
    """
    check_threads(threads)
    return DeviceEngine(manifest, program, LibcudaDriver(manifest))
