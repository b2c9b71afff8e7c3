"""Kernels printed as C and emulated, as `support.linked.Linked` for compiled ones."""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from firstlight.codegen.emulator import CEmulator
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.printer import CPrinter

WORDS = """
int worker, workers;
#define KERNEL
#define GLOBAL
#define GROUP() worker
#define GROUPS() workers
"""


class Printed(CEmulator):
    """Every phase of a SIMT kernel is launched for each of three workers, the last one first."""

    def __init__(self, kernels: Iterable[Kernel], folder: Path,
                 printer: Callable[[], CPrinter]) -> None:
        super().__init__({k.name: printer().source(k) for k in kernels}, folder, WORDS)
        self.names = frozenset(self.sources)

    def __call__(self, name: str, arrays: Sequence[np.ndarray], tokens: int) -> None:
        """Run a kernel on aligned arrays, in the order of its pointers."""
        self.run(name, arrays, tokens)

    def call(self, entry: str, arguments: Sequence[object]) -> None:
        """Once for each worker, where the function is a phase of a kernel."""
        worker = ctypes.c_int.in_dll(self.library, "worker")
        ctypes.c_int.in_dll(self.library, "workers").value = 3
        for worker.value in (0,) if entry in self.names else (2, 1, 0):
            super().call(entry, arguments)

    def close(self) -> None:
        """Nothing runs in the background."""
