"""What drivers of devices share: which device, what lives on it, launches and their arguments."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from firstlight.runtime.device import Call, DeviceError, Pointer
from firstlight.runtime.errors import FirstlightError

DEVICE = "FIRSTLIGHT_DEVICE"
"""The number of the device, among those that the driver leaves visible; 0 by default."""


class Memory:
    """Memory of a device; it goes with this object."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes


class Bound:
    """A list of launches, ready to run.

    Attributes:
        lists: what each launch is given, in the driver's own form.
        kept: what those point to; it has to live as long.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.lists: list[Any] = []
        self.kept: list[Any] = []


class Owned:
    """What lives on a device, each as long as some object here does.

    A release is called in whatever thread its owner goes, at the latest by ``close``.
    """

    def __init__(self) -> None:
        self._releases: dict[int, Callable[[], object]] = {}
        self._keys = itertools.count()

    def own(self, owner: object, release: Callable[[], object]) -> None:
        """Call ``release`` once, when `owner` goes."""
        key = next(self._keys)
        self._releases[key] = release
        weakref.finalize(owner, self._drop, key).atexit = False

    def close(self) -> None:
        """Release what is left, the newest first."""
        for key in sorted(self._releases, reverse=True):
            self._drop(key)

    def _drop(self, key: int) -> None:
        release = self._releases.pop(key, None)
        if release is not None:
            with suppress(DeviceError):         # a broken device lost it all
                release()


def ordinal() -> int:
    """The number of the device that is used. Raises F516 where the environment has none."""
    text = os.environ.get(DEVICE) or "0"
    if not text.isdecimal():
        raise FirstlightError(
            "F516",
            f"{DEVICE}={text} names no device",
            where="the environment",
            why="devices have numbers, from 0 on",
            try_=f"{DEVICE}=0, or leave it out",
        )
    return int(text)


def check_threads(threads: int | None) -> None:
    """Raise F512 for an impossible number; what it says is otherwise the device's own affair."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise FirstlightError(
            "F512",
            f"threads={threads!r} is not a usable number of threads",
            where="load(threads=...)",
            why="a device uses all its processors; a number is only checked",
            try_="threads=None",
        )


def packed(args: Sequence[Pointer | int]) -> tuple[bytes, tuple[int, ...]]:
    """Arguments as C lays them out: addresses of 8 bytes, numbers of 4; and their sizes.

    A pointer's memory has its ``address``.
    """
    out, sizes = b"", []
    for arg in args:
        size = 8 if isinstance(arg, Pointer) else 4
        value = arg.memory.address + arg.offset if isinstance(arg, Pointer) else arg
        out += b"\0" * (-len(out) % size) + value.to_bytes(size, "little")
        sizes.append(size)
    return out, tuple(sizes)
