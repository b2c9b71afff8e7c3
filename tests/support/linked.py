"""Kernels built and linked as for an artifact, called through the native launcher."""

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import build_object
from firstlight.targets.cpu.toolchain import link

MARCH = "x86-64-v3"
THREADS = 2


class Argument(ctypes.Structure):
    """fl_arg of launcher.h."""

    _fields_ = (("type", ctypes.c_int32), ("zero", ctypes.c_uint32), ("value", ctypes.c_int64))


class Step(ctypes.Structure):
    """fl_step of launcher.h."""

    _fields_ = (("kernel", ctypes.c_void_p), ("args", ctypes.c_void_p), ("n_args", ctypes.c_int64))


def aligned(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy on a 64-byte boundary."""
    room = np.zeros(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Linked:
    """A shared object with kernels and a pool of two threads."""

    def __init__(self, kernels: Iterable[Kernel], folder: Path) -> None:
        functions = {k.name: k.func for k in kernels}
        self.names = frozenset(functions)
        built = build_object(functions, {"mcpu": MARCH}, folder / "kernels.o")
        link([built], folder / "kernels.so", MARCH)
        self.library = ctypes.CDLL(str(folder / "kernels.so"))
        self.library.fl_start.restype = ctypes.c_void_p
        self.library.fl_run.restype = ctypes.c_int64
        self.library.fl_error.restype = ctypes.c_char_p
        self.pool = ctypes.c_void_p(self.library.fl_start(THREADS))

    def __call__(self, name: str, arrays: Sequence[np.ndarray], tokens: int) -> None:
        """Run a kernel on aligned arrays, in the order of its pointers."""
        args = (Argument * (len(arrays) + 1))()
        for arg, array in zip(args, arrays, strict=False):
            assert array.ctypes.data % 64 == 0 or not array.size
            arg.type, arg.value = 4, array.ctypes.data
        args[-1].type, args[-1].value = 1, tokens
        kernel = ctypes.cast(getattr(self.library, f"__tvm_ffi_{name}"), ctypes.c_void_p)
        step = Step(kernel, ctypes.addressof(args), len(args))
        scalars = (ctypes.c_int64 * 8)()
        failed = self.library.fl_run(self.pool, ctypes.byref(step), ctypes.c_int64(1), None,
                                     ctypes.c_int64(0), scalars)
        assert failed == -1, self.library.fl_error().decode()

    def close(self) -> None:
        """Stop the threads."""
        self.library.fl_stop(self.pool)
