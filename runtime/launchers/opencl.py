"""The OpenCL launcher: an artifact's sources, compiled by the driver of whatever device there is.

A kernel's pointer is passed as a buffer and a byte offset: sub-buffers, the other way to point into
a buffer, need an alignment that differs between devices and is coarser than ours. Which device is
the driver's to say; PYOPENCL_CTX chooses another, as in every program that uses pyopencl.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.runtime.device import Bytes, Call, DeviceEngine, DeviceError, Function, Pointer
from firstlight.runtime.drivers import check_threads
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import Program

OPTIONS = ("-cl-std=CL1.2",)
PIP = "pip install 'pyopencl[pocl]'"
_FMA_ROUNDS = 1 << 14
_FMA = """__kernel void fma_rate(__global float* out, float a, float b) {
  float8 x = (float8)(get_global_id(0)), y = x + 1, z = x + 2, w = x + 3;
  for (int i = 0; i < ROUNDS; ++i) { x = fma(x, a, b); y = fma(y, a, b); z = fma(z, a, b);
    w = fma(w, a, b); }
  x = x + y + z + w;
  out[get_global_id(0)] = x.s0 + x.s1 + x.s2 + x.s3 + x.s4 + x.s5 + x.s6 + x.s7;
}"""


class OpenClDriver:
    """A ``device.Driver``: one device and its context. Raises F515 or F516 if there is none."""

    used_by = 0
    """The process that used a driver's library first; those forked from it lack its threads."""

    def __init__(self, where: str) -> None:
        self.cl = cl = _package(where)
        OpenClDriver.used_by = OpenClDriver.used_by or os.getpid()
        if OpenClDriver.used_by != os.getpid():
            raise _forked(where)
        self.context = _context(cl, where)
        (self.device, *_) = self.context.devices
        self.units = int(self.device.max_compute_units)

    def load(self, path: Path, entries: Sequence[str]) -> Mapping[str, Function]:
        """The kernels of a source: (program, name), from which each session makes its own."""
        try:
            program = self._built(path.read_text("utf-8"))
            names = set(program.kernel_names.split(";"))
        except (self.cl.Error, UnicodeDecodeError) as error:
            raise _refused(path, self.device.name, str(error)) from error
        missing = sorted(set(entries) - names)
        if missing:
            raise malformed(path, f"the code has no kernel {missing[0]}")
        return {name: (program, name) for name in entries}

    def check(self) -> None:
        """Raise F517 if the compiler compiles nothing, as PoCL's on a CPU that is newer than
        its LLVM."""
        try:
            self._built("__kernel void nothing(void) {}")
        except self.cl.Error as error:
            raise _refused(Path("an empty kernel"), self.device.name, str(error)) from error

    def _built(self, text: str) -> Any:
        return self.cl.Program(self.context, text).build(options=list(OPTIONS))

    def queue(self) -> OpenClQueue:
        """A new queue, in order."""
        return OpenClQueue(self)

    def flops(self, repeats: int) -> float:
        """Float32 operations per second of multiply-adds of 16 chains in each of many threads."""
        cl, threads = self.cl, 1024 * self.units
        program = cl.Program(self.context, _FMA).build(options=[f"-DROUNDS={_FMA_ROUNDS}"])
        kernel, queue = cl.Kernel(program, "fma_rate"), cl.CommandQueue(self.context)
        out = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, 4 * threads)
        kernel.set_args(out, np.float32(0.5), np.float32(1))
        best = float("inf")
        for _ in range(repeats + 1):
            start = time.perf_counter()
            cl.enqueue_nd_range_kernel(queue, kernel, (threads,), None)
            queue.finish()
            best = min(best, time.perf_counter() - start)
        return 2 * 32 * _FMA_ROUNDS * threads / best

    def close(self) -> None:
        """Nothing to do: handles free what they stand for."""


class OpenClQueue:
    """A ``device.Queue``."""

    def __init__(self, driver: OpenClDriver) -> None:
        self.driver, self.cl = driver, driver.cl
        self.queue = driver.cl.CommandQueue(driver.context)

    def allocate(self, nbytes: int) -> Any:
        """A buffer of zeros."""
        most = self.driver.device.max_mem_alloc_size
        if nbytes > most:
            raise DeviceError(f"{self.driver.device.name} gives at most {most} bytes at a time")
        with self._errors():
            flags = self.cl.mem_flags.READ_WRITE
            buffer = self.cl.Buffer(self.driver.context, flags, nbytes)
            self.cl.enqueue_fill_buffer(self.queue, buffer, np.uint8(0), 0, nbytes)
            return buffer

    def write(self, memory: Any, offset: int, data: Bytes) -> None:
        """Copy to the device without waiting."""
        with self._errors():
            self.cl.enqueue_copy(self.queue, memory, data, dst_offset=offset, is_blocking=False)

    def read(self, memory: Any, offset: int, out: Bytes) -> None:
        """Wait, and copy from the device."""
        with self._errors():
            self.cl.enqueue_copy(self.queue, out, memory, src_offset=offset, is_blocking=True)

    def finish(self) -> None:
        """Wait."""
        with self._errors():
            self.queue.finish()

    def bind(self, calls: Sequence[Call]) -> list[tuple[Any, tuple[int, ...], tuple[int, ...]]]:
        """A kernel object with its arguments for each launch, global and local size."""
        bound = []
        with self._errors():
            for call in calls:
                kernel = self.cl.Kernel(*call.function)
                args: list[Any] = []
                for arg in call.args:
                    args += ([arg.memory, np.uint64(arg.offset)] if isinstance(arg, Pointer)
                             else [np.int32(arg)])  # fmt: skip
                if len(args) != kernel.num_args:
                    raise DeviceError(f"{call.function[1]} takes {kernel.num_args} arguments, "
                                      f"launch.json gives {len(args)}")  # fmt: skip
                kernel.set_args(*args)
                dims = max(len(call.grid), len(call.group))
                grid, group = (n + (1,) * (dims - len(n)) for n in (call.grid, call.group))
                size = tuple(a * b for a, b in zip(grid, group, strict=True))
                bound.append((kernel, size, group))
        return bound

    def run(self, bound: Sequence[tuple[Any, tuple[int, ...], tuple[int, ...]]]) -> None:
        """Enqueue all of them, and let the device begin."""
        enqueue, queue = self.cl.enqueue_nd_range_kernel, self.queue
        with self._errors():
            for kernel, size, group in bound:
                enqueue(queue, kernel, size, group)
            queue.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self.cl.Error as error:
            raise DeviceError(f"{self.driver.device.name}: {error}") from error


def open_engine(manifest: Manifest, program: Program, threads: int | None = None) -> DeviceEngine:
    """Compile an artifact's sources for a device here and upload its weights.

    ``threads`` is checked, and otherwise the device's own affair. Raises F515 without pyopencl,
    F516 without a device, F517 if its driver refuses the sources, F502 if program and code
    disagree, F512 for an impossible number of threads.
    """
    check_threads(threads)
    return DeviceEngine(manifest, program, OpenClDriver(str(manifest.directory)))


def _package(where: str) -> Any:
    try:
        import pyopencl
    except ImportError as error:
        raise FirstlightError(
            "F515",
            "the package that talks to the device's driver cannot be imported",
            where=where,
            why=str(error),
            try_=PIP,
        ) from error
    return pyopencl


def _context(cl: Any, where: str) -> Any:
    """A context of the device that PYOPENCL_CTX names, else of the first GPU, else of any."""
    try:
        if "PYOPENCL_CTX" in os.environ:
            return cl.create_some_context(interactive=False)
        devices = [d for platform in cl.get_platforms() for d in platform.get_devices()]
        devices.sort(key=lambda d: not d.type & cl.device_type.GPU)
        if devices:
            return cl.Context(devices[:1])
        why = "no driver offers one"
    except (cl.Error, RuntimeError, ValueError, IndexError) as error:
        why = str(error)
    raise FirstlightError(
        "F516",
        "there is no OpenCL device",
        where=where,
        why=why,
        try_=f"{PIP}    brings one that is this machine's processor",
    )


def _forked(where: str) -> FirstlightError:
    return FirstlightError(
        "F516",
        "there is no OpenCL device in this process",
        where=where,
        why="it was forked from one that used the driver, whose threads are not here",
        try_="multiprocessing.get_context('spawn')    or fork before the first model is loaded",
    )


def _refused(path: Path, device: str, log: str) -> FirstlightError:
    return FirstlightError(
        "F517",
        "the device's compiler refuses the code",
        where=f"{path}, {device}",
        why=log.strip() or "it gave no reason",
        try_="update the device's driver, choose another device by PYOPENCL_CTX, or compile again",
    )
