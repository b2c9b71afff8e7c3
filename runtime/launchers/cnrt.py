"""The cnrt launcher: kernels that cncc compiled, on a Cambricon MLU, through CNRT and its driver.

An artifact has sources; ``code/kernels.cnfatbin`` is made of them on a machine with CNToolkit
(``build.sh``). Memory and queues are CNRT's (libcnrt), modules and launches the driver's
(libcndrv). FIRSTLIGHT_CNRT and FIRSTLIGHT_CNDRV name other libraries than the system's;
FIRSTLIGHT_DEVICE is the number of the device. Written against the public prototypes, and never run
on a card.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from firstlight.runtime.device import Bytes, Call, DeviceEngine, DeviceError, Pointer
from firstlight.runtime.drivers import Bound, Memory, Owned, check_threads, ordinal
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import Program

CNRT, CNDRV = "FIRSTLIGHT_CNRT", "FIRSTLIGHT_CNDRV"
HOST_TO_DEVICE, DEVICE_TO_HOST = 0, 2
"""cnrtMemTransDir_t"""
ALIGN = 64


@dataclass(frozen=True)
class Function:
    """A kernel and its handle."""

    name: str
    handle: ctypes.c_void_p


class Api:
    """Both libraries. Calls that fail raise DeviceError."""

    def __init__(self, runtime: str, driver: str) -> None:
        self._libraries = {"cnrt": ctypes.CDLL(runtime), "cn": ctypes.CDLL(driver)}

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function; pointers and sizes must be ctypes objects, small numbers may be int."""
        library = self._libraries["cnrt" if name.startswith("cnrt") else "cn"]
        status = getattr(library, name)(*arguments)
        if status:
            raise DeviceError(f"{name}: {self._says(name, status)}")

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """The handle or address that a function gives through its first argument."""
        value = ctypes.c_void_p()
        self(name, ctypes.byref(value), *arguments)
        return value

    def _says(self, name: str, status: int) -> str:
        words = getattr(self._libraries["cnrt"], "cnrtGetErrorStr", None)
        if words is None or not name.startswith("cnrt"):
            return f"error {status}"
        words.restype = ctypes.c_char_p
        return (words(status) or b"").decode(errors="replace") or f"error {status}"


@cache
def api(runtime: str, driver: str) -> Api:
    """The libraries at these paths. Raises OSError without them, DeviceError if cnInit fails."""
    libraries = Api(runtime, driver)
    libraries("cnInit", 0)
    return libraries


class CnrtDriver:
    """A ``device.Driver``. Raises F516 without a device."""

    units = 4
    """Cores of the one cluster that a launch uses."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, number = manifest, ordinal()
        try:
            self.api = api(os.environ.get(CNRT) or "libcnrt.so",
                           os.environ.get(CNDRV) or "libcndrv.so")  # fmt: skip
            count = ctypes.c_uint()
            self.api("cnrtGetDeviceCount", ctypes.byref(count))
            if number >= count.value:
                raise DeviceError(f"there are {count.value} devices, and number {number} is wanted")
            self.number = number
            self.api("cnrtSetDevice", number)
        except (OSError, DeviceError) as error:
            raise FirstlightError(
                "F516",
                "there is no MLU",
                where=str(manifest.directory),
                why=str(error),
                try_="a machine with an MLU and CNToolkit, or an artifact for this one:"
                " firstlight compile CHECKPOINT --target cpu",
            ) from error
        self._owned = Owned()
        self._open = True

    def current(self) -> Api:
        """The libraries, with our device current in this thread."""
        if not self._open:
            raise DeviceError("the model is closed")
        self.api("cnrtSetDevice", self.number)
        return self.api

    def own(self, owner: object, destroy: str, handle: ctypes.c_void_p) -> None:
        """Call ``destroy(handle)`` when `owner` goes, at the latest when the driver is closed."""
        self._owned.own(owner, lambda: self.current()(destroy, handle))

    def load(self, path: Path, entries: Sequence[str]) -> Mapping[str, Function]:
        """The kernels of the fat binary that was made of the sources; F518 if it was not."""
        built = path.with_suffix(".cnfatbin")
        if not built.is_file():
            raise FirstlightError(
                "F518",
                "the kernels have not been compiled on this machine",
                where=str(built),
                why="the vendor's compiler is not where artifacts are made",
                try_=f"sh {path.with_name('build.sh')}    on a machine with CNToolkit",
            )
        try:
            call, module = self.current(), ctypes.c_void_p()
            call("cnModuleLoad", str(built).encode(), ctypes.byref(module))
            self.own(self, "cnModuleUnload", module)
        except DeviceError as error:
            raise FirstlightError(
                "F517",
                "the device's driver refuses the code",
                where=str(built),
                why=str(error),
                try_="build.sh again, with the CNToolkit that is installed here",
            ) from error
        try:
            return {name: self._function(module, name) for name in entries}
        except DeviceError as error:
            raise malformed(built, f"the code has no such kernel: {error}") from error

    def queue(self) -> CnrtQueue:
        """A new queue."""
        return CnrtQueue(self)

    def flops(self, repeats: int) -> float:
        """Not measured: no kernel comes with the launcher."""
        return math.nan

    def close(self) -> None:
        """Destroy everything on the device that is ours."""
        if self._open:
            self._owned.close()
            self._open = False

    def _function(self, module: ctypes.c_void_p, name: str) -> Function:
        handle = ctypes.c_void_p()
        self.current()("cnModuleGetKernel", module, name.encode(), ctypes.byref(handle))
        return Function(name, handle)


class CnrtQueue:
    """A ``device.Queue``."""

    def __init__(self, driver: CnrtDriver) -> None:
        self.driver = driver
        self.queue = driver.current().handle("cnrtQueueCreate")
        driver.own(self, "cnrtQueueDestroy", self.queue)
        self._running: list[Bound] = []     # what they point to is needed until they are done

    def allocate(self, nbytes: int) -> Memory:
        """Memory of zeros."""
        call = self.driver.current()
        address = call.handle("cnrtMalloc", ctypes.c_size_t(nbytes))
        memory = Memory(int(address.value or 0), nbytes)
        self.driver.own(memory, "cnrtFree", address)
        if memory.address % ALIGN:
            raise DeviceError(f"memory at {memory.address:#x}, which is no multiple of {ALIGN}")
        call("cnrtMemsetAsync", address, 0, ctypes.c_size_t(nbytes), self.queue)
        self._wait()
        return memory

    def write(self, memory: Memory, offset: int, data: Bytes) -> None:
        """Copy to the device."""
        self.driver.current()(
            "cnrtMemcpyAsync", ctypes.c_void_p(memory.address + offset),
            ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.size), self.queue,
            HOST_TO_DEVICE)  # fmt: skip

    def read(self, memory: Memory, offset: int, out: Bytes) -> None:
        """Copy from the device after all that was given before; the one wait of a token."""
        self.driver.current()(
            "cnrtMemcpyAsync", ctypes.c_void_p(out.ctypes.data),
            ctypes.c_void_p(memory.address + offset), ctypes.c_size_t(out.size), self.queue,
            DEVICE_TO_HOST)  # fmt: skip
        self._wait()

    def finish(self) -> None:
        """Wait."""
        self._wait()

    def bind(self, calls: Sequence[Call]) -> Bound:
        """Lay out the arguments of each launch."""
        bound = Bound(calls)
        for call in calls:
            values = [_argument(arg) for arg in call.args]
            places = [ctypes.addressof(value) for value in values]
            bound.kept.append(values)
            bound.lists.append((ctypes.c_void_p * len(places))(*places))
        return bound

    def run(self, bound: Bound) -> None:
        """Launch all of them."""
        api_ = self.driver.current()
        self._running.append(bound)
        for call, arguments in zip(bound.calls, bound.lists, strict=True):
            tasks = call.grid + (1,) * (3 - len(call.grid))
            # KernelClass: CN_KERNEL_CLASS_BLOCK, _UNION, ... are their numbers of cores
            api_("cnInvokeKernel", call.function.handle, *tasks, call.group[0], 0, self.queue,
                 arguments, None)  # fmt: skip

    def _wait(self) -> None:
        self.driver.current()("cnrtQueueSync", self.queue)
        self._running.clear()


def _argument(arg: Pointer | int) -> Any:
    if isinstance(arg, Pointer):
        return ctypes.c_uint64(arg.memory.address + arg.offset)
    return ctypes.c_int32(arg)


def open_engine(manifest: Manifest, program: Program, threads: int | None = None) -> DeviceEngine:
    """Load an artifact's compiled kernels and upload its weights to an MLU.

    ``threads`` is checked, and otherwise the device's own affair. Raises F516 without a device,
    F518 if the kernels are not compiled, F517 if the driver refuses them, F502 if program and code
    disagree, F512 for an impossible number of threads.
    """
    check_threads(threads)
    return DeviceEngine(manifest, program, CnrtDriver(manifest))
