"""Kernels printed as C, compiled with a C compiler of this machine and called by ctypes."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.printer import CPrinter
from firstlight.targets.cpu.toolchain import drivers
from support.linked import aligned

WORKERS = """
int worker, workers;
#define KERNEL
#define GLOBAL
#define GROUP() worker
#define GROUPS() workers
"""


class Printed:
    """As `support.linked.Linked`, for the text of a printer.

    Every phase of a SIMT kernel is launched for each of three workers, the last one first.
    """

    def __init__(self, kernels: Iterable[Kernel], folder: Path,
                 printer: Callable[[], CPrinter]) -> None:
        sources = {k.name: printer().source(k) for k in kernels}
        self.names = frozenset(sources)
        self.phases = {n: [p["entry"] for p in s.launch.get("phases", ())] or [s.entry]
                       for n, s in sources.items()}
        for source in sources.values():
            for name, data in source.files.items():
                (folder / name).write_bytes(data)
        text = "\n".join(f'#include "{name}.c"' for name in sources)
        (folder / "all.c").write_text(WORKERS + text)
        command = [*drivers()[0], "-std=gnu11", "-O1", "-w", "-ffp-contract=off", "-shared",
                   "-fPIC", "all.c", "-o", "all.so", "-lm"]
        environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
        subprocess.run(command, cwd=folder, check=True, env=environment)
        self.library = ctypes.CDLL(str(folder / "all.so"))

    def __call__(self, name: str, arrays: Sequence[np.ndarray], tokens: int) -> None:
        """Run a kernel on aligned arrays, in the order of its pointers."""
        size = getattr(self.library, f"{name}_workspace")
        size.restype = ctypes.c_int64
        workspace = aligned(np.full(size(ctypes.c_int64(tokens)), 0xAB, np.uint8))
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, workspace)]
        worker = ctypes.c_int.in_dll(self.library, "worker")
        ctypes.c_int.in_dll(self.library, "workers").value = 3
        for entry in self.phases[name]:
            for worker.value in (2, 1, 0) if len(self.phases[name]) > 1 or entry != name else (0,):
                getattr(self.library, entry)(*pointers, ctypes.c_int32(tokens))

    def close(self) -> None:
        """Nothing runs in the background."""
