"""The fake driver's library (fake_libcuda.c), compiled once with any C compiler."""

import ctypes
import functools
import shutil
import tempfile
from pathlib import Path

from firstlight.codegen.c_compiler import compile_c

FLAGS = ("-std=gnu11", "-O1", "-w", "-shared", "-fPIC", "-pthread")
Executor = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint),
                            ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.c_size_t)
"""What runs a kernel: name, grid, group, its parameters and their bytes."""


class Fake:
    """The library, as the launcher has it loaded, too."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.fake_error.restype = ctypes.c_char_p
        self.library.fake_count.restype = ctypes.c_long

    def count(self, name: str) -> int:
        """Calls of a function; "kernels" that ran; memory that is "live"; contexts "retained"."""
        return int(self.library.fake_count(name.encode()))

    def set(self, name: str, value: int) -> None:
        """Be another machine: "driver" (13000), "capability" (90), "devices", "memory"."""
        self.library.fake_set(name.encode(), ctypes.c_long(value))

    def reset(self) -> None:
        """Back to the usual machine; counts from zero."""
        self.library.fake_reset()

    def error(self) -> str:
        """What was refused last."""
        return self.library.fake_error().decode()

    def __getattr__(self, name: str):
        return getattr(self.library, name)


@functools.cache
def fake() -> Fake:
    """The one fake of a test run."""
    folder = Path(tempfile.mkdtemp(prefix="firstlight-fake-"))
    source = shutil.copy(Path(__file__).with_name("fake_libcuda.c"), folder)
    return Fake(compile_c(Path(source), folder / "libcuda.so.1", FLAGS))
