"""Kernels run here: by the GPU, or else by a target that runs threads without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Executor
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.libcuda import LibcudaDriver
from firstlight.runtime.launches import table_of
from firstlight.targets.cuda.toolchain import compiler
from firstlight.targets.devices import DeviceExecutor, Loaded

if TYPE_CHECKING:
    from firstlight.targets.cuda.code import Code

ASK = """
from firstlight.runtime.libcuda import compute_capability
print(*(compute_capability() or ()))
"""


def capability() -> tuple[int, int] | None:
    """Compute capability of the GPU here; None without one.

    A process of its own is asked: one that has used the driver cannot fork others that do.
    """
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    numbers = [int(word) for word in done.stdout.split()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


@dataclass(frozen=True)
class Built:
    """As much of an artifact's manifest as the launcher's driver reads."""

    directory: Path
    requires: Mapping[str, Any]

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.directory / name


def on_gpu(code: Code, requires: Mapping[str, Any], kernels: Mapping[str, Kernel], folder: Path
           ) -> Executor | None:
    """The cubins of kernels on the GPU of this machine; None if it has none that can run them.

    Without a compiler there are no cubins.
    """
    if compiler() is None:
        return None
    try:
        driver = LibcudaDriver(Built(folder, requires))
    except FirstlightError:
        return None
    code.build(kernels, folder)
    table = table_of(json.loads((folder / "code" / "launch.json").read_bytes()))

    @cache
    def module(number: int) -> Mapping[str, Any]:
        return driver.load(folder / table.modules[number], table.entries(number))

    def load(symbol: str) -> Loaded:
        kernel = table.kernels[symbol]
        return kernel, module(kernel.launches[0].module)

    return DeviceExecutor(driver.device.name, driver, load)


class Elsewhere:
    """An executor of another target, and what that means."""

    def __init__(self, executor: Executor, target: str) -> None:
        self.run = executor.run
        device = getattr(executor, "name", "its device")
        self.note = (f"the same launches, as the text of target {target}, ran on {device}; the "
                     "cubins were not run")


def elsewhere(code: Code, kernels: Mapping[str, Kernel], folder: Path) -> Executor | None:
    """The same launches, run by a target that runs threads here."""
    from firstlight.targets import available

    for name, target in available().targets.items():
        executor = target.execute(lambda symbol: code.schedule(kernels[symbol]),
                                  folder) if target.execute else None
        if executor is not None:
            return Elsewhere(executor, name)
    return None
