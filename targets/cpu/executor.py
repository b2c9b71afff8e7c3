"""Kernels of a CPU target, built in a scratch folder and called through the native launcher."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from firstlight.codegen.kernel import Kernel
from firstlight.runtime import cpu

THREADS = 2
"""Two, so that a kernel whose threads get in each other's way is seen."""
INTEGER, POINTER = 1, 4
Build = Callable[[Mapping[str, Kernel], Path, "int | None"], Sequence[Path]]


class Argument(ctypes.Structure):
    """fl_arg of runtime/native/launcher.h."""

    _fields_ = (("type", ctypes.c_int32), ("zero", ctypes.c_uint32), ("value", ctypes.c_int64))


class Step(ctypes.Structure):
    """fl_step of runtime/native/launcher.h."""

    _fields_ = (("kernel", ctypes.c_void_p), ("args", ctypes.c_void_p), ("n_args", ctypes.c_int64))


class CpuExecutor:
    """A `firstlight.codegen.target.Executor`: a shared object with kernels, and two threads."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.fl_start.restype = ctypes.c_void_p
        self.library.fl_run.restype = ctypes.c_int64
        self.library.fl_error.restype = ctypes.c_char_p
        self.pool = ctypes.c_void_p(self.library.fl_start(THREADS))
        self.close = weakref.finalize(self, self.library.fl_stop, self.pool)
        self.close.atexit = False  # threads of the pool may be gone by then

    def run(self, symbol: str, buffers: Sequence[NDArray[Any]], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S. RuntimeError with what it reports."""
        args = (Argument * (len(buffers) + 1))()
        for arg, buffer in zip(args, buffers, strict=False):
            arg.type, arg.value = POINTER, buffer.ctypes.data
        args[-1].type, args[-1].value = INTEGER, tokens
        kernel = ctypes.cast(getattr(self.library, f"__tvm_ffi_{symbol}"), ctypes.c_void_p)
        step = Step(kernel, ctypes.addressof(args), len(args))
        scalars = (ctypes.c_int64 * 8)()
        failed = self.library.fl_run(self.pool, ctypes.byref(step), ctypes.c_int64(1), None,
                                     ctypes.c_int64(0), scalars)
        if failed != -1:
            raise RuntimeError(f"{symbol}: {self.library.fl_error().decode()}")


def emulate(build: Build, requires: Mapping[str, Any], kernels: Mapping[str, Kernel],
            folder: Path) -> CpuExecutor:
    """Build the kernels under `folder` and load them; F510 where this CPU cannot run them."""
    cpu.check(requires, str(folder))
    build(kernels, folder, None)
    return CpuExecutor(folder / "code" / "model.so")
