"""Kernels run on a device here, through the driver of one of the runtime's launchers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from firstlight.codegen.target import Array, place
from firstlight.runtime.device import Call, Driver, Function, Pointer
from firstlight.runtime.launches import KernelLaunches, Launch
from firstlight.runtime.sizes import value

Loaded = tuple[KernelLaunches, Mapping[str, Function]]
"""A kernel's launches, and the functions that they name."""


GUARD = 4096
"""Bytes around a buffer that no kernel may change."""
_FILL = 0xC7


class DeviceExecutor:
    """A `firstlight.codegen.target.Executor`: arrays go to the device and come back.

    Raises RuntimeError where a kernel wrote beside a buffer.

    Args:
        name: of the device.
        load: symbol -> the kernel on the device; asked once for each, when it is first called.
    """

    def __init__(self, name: str, driver: Driver, load: Callable[[str], Loaded]) -> None:
        self.name, self.driver, self.queue = name, driver, driver.queue()
        self.kernel = cache(load)

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S."""
        kernel, functions = self.kernel(symbol)
        uploaded = {key: self._upload(buffer)
                    for key, buffer in {place(b): b for b in buffers}.items()}
        memory = [uploaded[place(buffer)] for buffer in buffers]
        size = value(kernel.workspace, tokens)
        # rubbish, as a kernel finds it after another
        workspace = self._upload(np.full(max(size, 64), 0xAB, np.uint8))
        given: dict[int | str, Pointer | int] = {
            **dict(enumerate(memory)), "w": workspace, "S": tokens}
        calls = [_call(functions[launch.entry], launch, given, tokens)
                 for launch in kernel.launches]
        self.queue.run(self.queue.bind([call for call in calls if min(call.grid) > 0]))
        for pointer, buffer in zip(memory, buffers, strict=True):
            if buffer.flags.writeable and buffer.size:
                self.queue.read(pointer.memory, pointer.offset, _bytes(buffer))
        names = [*(f"pointer {i}" for i in range(len(memory))), "its workspace"]
        sizes = [*(buffer.nbytes for buffer in buffers), max(size, 64)]
        for name, pointer, nbytes in zip(names, [*memory, workspace], sizes, strict=True):
            self._check_guards(f"{symbol}, {name}", pointer, nbytes)

    def _check_guards(self, what: str, pointer: Pointer, nbytes: int) -> None:
        for where, at in (("before", 0), ("behind", GUARD + nbytes)):
            guard = np.zeros(GUARD, np.uint8)
            self.queue.read(pointer.memory, at, guard)
            self.queue.finish()
            if (guard != _FILL).any():
                raise RuntimeError(f"{what}: memory {where} it was overwritten")

    def _upload(self, buffer: Array) -> Pointer:
        """Between guards, so that kernels cannot count on the beginning of memory either."""
        room = np.full(buffer.nbytes + 2 * GUARD, _FILL, np.uint8)
        if buffer.size:
            room[GUARD:-GUARD] = _bytes(buffer)
        memory = self.queue.allocate(room.nbytes)
        self.queue.write(memory, 0, room)
        self.queue.finish()
        return Pointer(memory, GUARD)


def _call(function: Function, launch: Launch, given: Mapping[int | str, Any], tokens: int) -> Call:
    grid = tuple(value(n, tokens) for n in launch.grid)
    return Call(function, grid, launch.group, launch.shared, tuple(given[a] for a in launch.args))


def _bytes(buffer: Array) -> Array:
    return buffer.reshape(-1).view(np.uint8)
