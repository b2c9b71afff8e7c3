"""Kernels run on a device here, through the runtime's own launcher."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.codegen.target import Array, Executor
from firstlight.runtime.device import Call, Pointer
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.opencl import OpenClDriver
from firstlight.runtime.launches import Launch, LaunchTable, table_of
from firstlight.runtime.sizes import value


def device_name() -> str | None:
    """The device that the launcher would use; None where there is none."""
    try:
        return str(OpenClDriver("this machine").device.name)
    except FirstlightError:
        return None


def executor(build: Callable[[Path], Sequence[Path]], folder: Path) -> Executor | None:
    """Load what `build` writes to a folder on the device, if there is one."""
    try:
        driver = OpenClDriver("this machine")
    except FirstlightError:
        return None
    build(folder)
    table = table_of(json.loads((folder / "code" / "launch.json").read_bytes()))
    return OpenClExecutor(driver, folder, table)


class OpenClExecutor:
    """A `firstlight.codegen.target.Executor`: arrays go to the device and come back."""

    def __init__(self, driver: OpenClDriver, folder: Path, table: LaunchTable) -> None:
        self.table, self.queue = table, driver.queue()
        self.name = f"{driver.device.name} ({driver.device.platform.name.strip()})"
        self.functions = [driver.load(folder / path, table.entries(number))
                          for number, path in enumerate(table.modules)]

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S."""
        kernel = self.table.kernels[symbol]
        memory = [self._upload(buffer) for buffer in buffers]
        size = value(kernel.workspace, tokens)
        # rubbish, as a kernel finds it after another
        workspace = self._upload(np.full(max(size, 64), 0xAB, np.uint8))
        given: dict[int | str, Pointer | int] = {
            **dict(enumerate(memory)), "w": workspace, "S": tokens}
        calls = [self._call(launch, given, tokens) for launch in kernel.launches]
        self.queue.run(self.queue.bind([call for call in calls if min(call.grid) > 0]))
        for place, buffer in zip(memory, buffers, strict=True):
            if buffer.flags.writeable and buffer.size:
                self.queue.read(place.memory, place.offset, _bytes(buffer))

    def _call(self, launch: Launch, given: Mapping[int | str, Any], tokens: int) -> Call:
        grid = tuple(value(n, tokens) for n in launch.grid)
        return Call(self.functions[launch.module][launch.entry], grid, launch.group, launch.shared,
                    tuple(given[a] for a in launch.args))

    def _upload(self, buffer: Array) -> Pointer:
        """At byte 64 of its memory: kernels must not count on the beginning."""
        memory = self.queue.allocate(64 + max(buffer.nbytes, 64))
        if buffer.size:
            self.queue.write(memory, 64, _bytes(buffer))
            self.queue.finish()
        return Pointer(memory, 64)


def _bytes(buffer: Array) -> Array:
    return buffer.reshape(-1).view(np.uint8)
