"""Kernels run on a device here, through the runtime's own launcher."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight.codegen.target import Array
from firstlight.runtime.device import Call, Function, Pointer
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.opencl import OpenClDriver
from firstlight.runtime.launches import KernelLaunches, Launch, table_of
from firstlight.runtime.sizes import value
from firstlight.targets.opencl.source import write

if TYPE_CHECKING:
    from firstlight.codegen.simt import Scheduled


ASK = """
from firstlight.runtime.launchers.opencl import OpenClDriver
print(OpenClDriver("this machine").device.name)
"""


def device_name() -> str | None:
    """The device that the launcher would use; None where there is none.

    A process of its own is asked: where a driver has been used, its threads are missing in all
    processes that are forked later, and that is how kernels are tried.
    """
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    return None if done.returncode else done.stdout.strip()


def executor(schedule: Callable[[str], Scheduled], folder: Path) -> OpenClExecutor | None:
    """What runs kernels on the device, if there is one; `schedule` gives their launches by name."""
    try:
        driver = OpenClDriver("this machine")
    except FirstlightError:
        return None
    return OpenClExecutor(driver, schedule, folder)


class OpenClExecutor:
    """A `firstlight.codegen.target.Executor`: arrays go to the device and come back.

    A kernel is written, and compiled by the device's driver, when it is first called.
    """

    def __init__(self, driver: OpenClDriver, schedule: Callable[[str], Scheduled], folder: Path
                 ) -> None:
        self.driver, self.schedule, self.folder = driver, schedule, folder
        self.queue = driver.queue()
        self.name = f"{driver.device.name} ({driver.device.platform.name.strip()})"
        self.kernel = cache(self._load)

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S."""
        kernel, functions = self.kernel(symbol)
        memory = [self._upload(buffer) for buffer in buffers]
        size = value(kernel.workspace, tokens)
        # rubbish, as a kernel finds it after another
        workspace = self._upload(np.full(max(size, 64), 0xAB, np.uint8))
        given: dict[int | str, Pointer | int] = {
            **dict(enumerate(memory)), "w": workspace, "S": tokens}
        calls = [_call(functions[launch.entry], launch, given, tokens)
                 for launch in kernel.launches]
        self.queue.run(self.queue.bind([call for call in calls if min(call.grid) > 0]))
        for place, buffer in zip(memory, buffers, strict=True):
            if buffer.flags.writeable and buffer.size:
                self.queue.read(place.memory, place.offset, _bytes(buffer))

    def _load(self, symbol: str) -> tuple[KernelLaunches, Mapping[str, Function]]:
        folder = self.folder / symbol
        folder.mkdir()
        write([self.schedule(symbol)], folder)
        table = table_of(json.loads((folder / "code" / "launch.json").read_bytes()))
        (module,) = table.modules
        return table.kernels[symbol], self.driver.load(folder / module, table.entries(0))

    def _upload(self, buffer: Array) -> Pointer:
        """At byte 64 of its memory: kernels must not count on the beginning."""
        memory = self.queue.allocate(64 + max(buffer.nbytes, 64))
        if buffer.size:
            self.queue.write(memory, 64, _bytes(buffer))
            self.queue.finish()
        return Pointer(memory, 64)


def _call(function: Function, launch: Launch, given: Mapping[int | str, Any], tokens: int) -> Call:
    grid = tuple(value(n, tokens) for n in launch.grid)
    return Call(function, grid, launch.group, launch.shared, tuple(given[a] for a in launch.args))


def _bytes(buffer: Array) -> Array:
    return buffer.reshape(-1).view(np.uint8)
