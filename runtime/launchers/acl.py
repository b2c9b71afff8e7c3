"""The acl launcher: kernels that CANN's compiler finished, on an Ascend device, through pyACL.

What a chip's compiler leaves in an artifact is finished on the device's machine (``build.sh``):
``code/objects/NAME.o`` is made of ``code/lowered/NAME.mlir``, and loaded here. A session has a
stream. The arguments of a launch are one block: addresses, numbers, and the grid's three sides; a
list of launches has its blocks ready, and a token is a call for each of them, and one wait.
"""

from __future__ import annotations

import ctypes
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.runtime.acl import Device
from firstlight.runtime.device import Bytes, Call, DeviceEngine, DeviceError
from firstlight.runtime.drivers import Bound, Memory, check_threads, packed
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launches import FILE
from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import Program

HUGE_FIRST, TO_DEVICE, FROM_DEVICE = 0, 1, 2
"""ACL_MEM_MALLOC_HUGE_FIRST; ACL_MEMCPY_HOST_TO_DEVICE; ACL_MEMCPY_DEVICE_TO_HOST."""
MAGIC = 2
"""ACL_RT_BINARY_LOAD_OPT_MAGIC"""
KINDS = {"aiv": 0x41415246, "aic": 0x43554245, "mix": None}
"""ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE and _AICORE; a binary for both kinds of core has none."""
ALIGN = 64
STAGED = 1 << 20
"""Bytes of a queue's own host memory, which the device reads and writes directly."""
CORE = re.compile(r"hivm\.module_core_type<(\w+)>")


@dataclass(frozen=True)
class Function:
    """A kernel: its name and handle, and the bytes that a list of its arguments needs."""

    name: str
    handle: int
    list_bytes: int


class AclDriver:
    """A ``device.Driver``. Raises F515 and F516 without a device, F510 for one of another line."""

    clears_locks = True

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.cores = _cores(manifest)
        self.device = Device(str(manifest.directory))
        _check_chip(manifest, self.device)
        self.units = self.device.cores

    def load(self, path: Path, entries: Sequence[str]) -> Mapping[str, Function]:
        """The kernels of the object that was made of a module. Raises F518 if it was not."""
        built = path.parents[1] / "objects" / f"{path.stem}.o"
        try:
            data = built.read_bytes()
            kind = self._kind(path.stem)
        except FileNotFoundError as error:
            if path.suffix == ".json":
                raise _unbound(path, built) from error
            raise FirstlightError(
                "F518",
                "the kernels have not been finished on this machine",
                where=str(built),
                why="what the compiler leaves is lowered as far as it goes without CANN",
                try_=f"sh {path.parents[1] / 'build.sh'}    on a machine with CANN",
            ) from error
        try:
            with self.device.current() as call:
                room = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
                magic = KINDS[kind]
                options = [] if magic is None else [{"type": MAGIC, "value": magic}]
                binary = call("rt.binary_load_from_data", ctypes.addressof(room), len(data),
                              options)  # fmt: skip
                self.device.own(self, "rt.binary_unload", binary)
        except DeviceError as error:
            raise FirstlightError(
                "F517",
                "the device's driver refuses the code",
                where=f"{built}, {self.device.name}",
                why=str(error),
                try_="build.sh again, with the CANN that is installed here",
            ) from error
        try:
            return {name: self._function(binary, name) for name in entries}
        except DeviceError as error:
            raise malformed(built, f"the code has no such kernel: {error}") from error

    def queue(self) -> AclQueue:
        """A new stream."""
        return AclQueue(self.device)

    def flops(self, repeats: int) -> float:
        """Not measured: no kernel comes with the launcher."""
        return math.nan

    def close(self) -> None:
        """Destroy everything on the device that is ours."""
        self.device.close()

    def _kind(self, module: str) -> str:
        """Which cores a module is for: the table says so, or the module that build.sh lowered."""
        kind = self.cores.get(module)
        if kind is None:
            path = self.manifest.directory / "code" / "lowered" / f"{module}.mlir"
            found = CORE.search(path.read_text("utf-8"))
            kind = found[1].lower() if found else ""
        if kind not in KINDS:
            raise malformed(self.manifest.path(FILE), f"{module} is for no core that there is")
        return kind

    def _function(self, binary: int, name: str) -> Function:
        with self.device.current() as call:
            handle = call("rt.binary_get_function", binary, name)
            return Function(name, handle, call("rt.kernel_args_get_handle_mem_size", handle))


class AclQueue:
    """A ``device.Queue``: a stream, and some host memory that copies go through."""

    def __init__(self, device: Device) -> None:
        self.device = device
        with device.current() as call:
            self.stream = call("rt.create_stream")
            device.own(self, "rt.destroy_stream", self.stream)
            stage = call("rt.malloc_host", STAGED)
        raw = (ctypes.c_uint8 * STAGED).from_address(stage)
        device.own(raw, "rt.free_host", stage)
        self._stage: Bytes = np.ctypeslib.as_array(raw)
        self._used = 0
        self._running: list[Bound] = []     # what they point to is needed until they are done

    def allocate(self, nbytes: int) -> Memory:
        """Memory of zeros."""
        with self.device.current() as call:
            address = call("rt.malloc", nbytes, HUGE_FIRST)
            memory = Memory(address, nbytes)
            self.device.own(memory, "rt.free", address)
            if address % ALIGN:
                raise DeviceError(f"memory at {address:#x}, which is no multiple of {ALIGN}")
            call("rt.memset_async", address, nbytes, 0, nbytes, self.stream)
            self._wait()
            return memory

    def write(self, memory: Memory, offset: int, data: Bytes) -> None:
        """Copy to the device: small data through our own memory, large data at once."""
        with self.device.current() as call:
            if data.size > STAGED // 4:
                self._wait()
                call("rt.memcpy", memory.address + offset, memory.nbytes - offset,
                     data.ctypes.data, data.size, TO_DEVICE)  # fmt: skip
                return
            if self._used + data.size > STAGED:
                self._wait()
            part = self._stage[self._used : self._used + data.size]
            self._used += -(-data.size // ALIGN) * ALIGN
            part[:] = data
            call("rt.memcpy_async", memory.address + offset, memory.nbytes - offset,
                 part.ctypes.data, data.size, TO_DEVICE, self.stream)  # fmt: skip

    def read(self, memory: Memory, offset: int, out: Bytes) -> None:
        """Copy from the device after all that was given before; the one wait of a token."""
        with self.device.current() as call:
            source = memory.address + offset
            if out.size > STAGED or self._used + out.size > STAGED:
                self._wait()
            if out.size > STAGED:
                call("rt.memcpy", out.ctypes.data, out.size, source, out.size, FROM_DEVICE)
                return
            part = self._stage[self._used : self._used + out.size]
            call("rt.memcpy_async", part.ctypes.data, part.size, source, part.size, FROM_DEVICE,
                 self.stream)  # fmt: skip
            self._wait()
            out[:] = part

    def finish(self) -> None:
        """Wait."""
        with self.device.current():
            self._wait()

    def bind(self, calls: Sequence[Call]) -> Bound:
        """Lay out the argument block of each launch."""
        bound = Bound(calls)
        with self.device.current():
            for call in calls:
                self._arguments(bound, call)
        return bound

    def run(self, bound: Bound) -> None:
        """Launch all of them."""
        with self.device.current() as call:
            self._running.append(bound)
            for one, arguments in zip(bound.calls, bound.lists, strict=True):
                if one.lock is not None:
                    address = one.lock.memory.address + one.lock.offset
                    call("rt.memset_async", address, one.locks, 0, one.locks, self.stream)
                call("rt.launch_kernel_with_config", one.function.handle, math.prod(one.grid),
                     self.stream, [], arguments, 0)  # fmt: skip

    def _wait(self) -> None:
        self.device.api("rt.synchronize_stream", self.stream)
        self._running.clear()
        self._used = 0

    def _arguments(self, bound: Bound, call: Call) -> None:
        """A list of arguments in memory of ours, so that it can be launched again and again."""
        api, function = self.device.api, call.function
        grid = call.grid + (1,) * (3 - len(call.grid))
        block, _ = packed((*call.args, *grid))
        room = api("rt.kernel_args_get_mem_size", function.handle, len(block))
        rooms = [(ctypes.c_uint8 * n)() for n in (function.list_bytes, room)]
        arguments, values = (ctypes.addressof(r) for r in rooms)
        api("rt.kernel_args_init_by_user_mem", function.handle, arguments, values, room)
        source = (ctypes.c_uint8 * len(block)).from_buffer_copy(block)
        # as one: apart, each would begin at a multiple of 8
        api("rt.kernel_args_append", arguments, ctypes.addressof(source), len(block))
        api("rt.kernel_args_finalize", arguments)
        bound.lists.append(arguments)
        bound.kept += rooms


def _unbound(binding: Path, built: Path) -> FirstlightError:
    """An op of the vendor's library that the artifact only names."""
    try:
        name = json.loads(binding.read_bytes())["op"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise malformed(binding, f"it names no op: {error!r}") from error
    return FirstlightError(
        "F518",
        f"a kernel is {name} of the vendor's library, and nothing is bound to it",
        where=str(built),
        why="the artifact was compiled to call it; what it is given stands in " + binding.name,
        try_="compile the checkpoint again without binding the vendor's op: firstlight compile"
        " --help    names the target's options",
    )


def _cores(manifest: Manifest) -> Mapping[str, str]:
    """By module, the cores that it is for, as far as the launch table says."""
    path = manifest.path(FILE)
    try:
        return dict(json.loads(path.read_bytes())["chip"]["cores"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise malformed(path, f"launch.json makes no sense: {error!r}") from error


def _check_chip(manifest: Manifest, device: Device) -> None:
    """Raise F510 for a device of another line: names are LINE_NUMBER, and code is a line's."""
    wanted = str(manifest.requires.get("chip", ""))
    if not wanted:
        raise malformed(manifest.directory, "it does not say which chip it requires")
    if wanted.split("_")[0] != device.name.split("_")[0]:
        name = device.name or "a device without a name"
        device.close()
        raise FirstlightError(
            "F510",
            f"{name} cannot run the artifact, which is for {wanted}",
            where=str(manifest.directory),
            why="code of one line of chips does not run on another",
            try_="firstlight compile CHECKPOINT --target    for this chip",
        )


def open_engine(manifest: Manifest, program: Program, threads: int | None = None) -> DeviceEngine:
    """Load an artifact's finished kernels and upload its weights to a device.

    ``threads`` is checked, and otherwise the device's own affair. Raises F515 without pyACL, F516
    without a device, F510 if it cannot run the artifact, F518 if the kernels are not finished,
    F517 if the driver refuses them, F502 if program and code disagree, F512 for an impossible
    number of threads.
    """
    check_threads(threads)
    return DeviceEngine(manifest, program, AclDriver(manifest))
