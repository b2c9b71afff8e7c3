"""The driver's library of NVIDIA GPUs by ctypes: as much of its API as a launcher needs.

FIRSTLIGHT_LIBCUDA names another library than the system's ``libcuda.so.1``; FIRSTLIGHT_DEVICE is
the number of the device (default 0, among those that CUDA_VISIBLE_DEVICES leaves visible).
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from firstlight.runtime.device import DeviceError
from firstlight.runtime.drivers import DEVICE, Owned, ordinal
from firstlight.runtime.errors import FirstlightError

__all__ = ["DEVICE", "LIBRARY", "Api", "Device", "api", "compute_capability", "library_path"]

LIBRARY = "FIRSTLIGHT_LIBCUDA"
UNITS, MAJOR, MINOR = 16, 75, 76
"""CUdevice_attribute: processors, and the two numbers of the compute capability."""


class Api:
    """The library. Calls that fail raise DeviceError with its own words."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function; pointers and sizes must be ctypes objects, small numbers may be int."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise DeviceError(f"{name}: {self._says(status)}")

    def has(self, name: str) -> bool:
        """Whether this version of the library has a function."""
        return hasattr(self._library, name)

    def number(self, name: str, *arguments: Any) -> int:
        """The int that a function gives through its first argument."""
        value = ctypes.c_int()
        self(name, ctypes.byref(value), *arguments)
        return value.value

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """The handle or address that a function gives through its first argument."""
        value = ctypes.c_void_p()
        self(name, ctypes.byref(value), *arguments)
        return value

    def _says(self, status: int) -> str:
        text = ctypes.c_char_p()
        if self._library.cuGetErrorString(status, ctypes.byref(text)) or not text.value:
            return f"error {status}"
        return text.value.decode(errors="replace")


@cache
def api(path: str) -> Api:
    """The library at a path, initialized. Raises OSError without it, DeviceError without a GPU."""
    library = Api(path)
    library("cuInit", 0)
    return library


def library_path() -> str:
    """Which library is used."""
    return os.environ.get(LIBRARY) or "libcuda.so.1"


def compute_capability() -> tuple[int, int] | None:
    """Of the device that would be used; None without a driver or device."""
    try:
        found = api(library_path())
        device = found.number("cuDeviceGet", ordinal())
        return (found.number("cuDeviceGetAttribute", MAJOR, device),
                found.number("cuDeviceGetAttribute", MINOR, device))
    except (OSError, DeviceError, FirstlightError):
        return None


class Device:
    """A device and its primary context, held until ``close``.

    What it owns (memory, streams, ...) goes with the object it was made for, in whatever thread
    that happens. Raises F516 without a driver or device.
    """

    def __init__(self, where: str) -> None:
        number = ordinal()
        try:
            self.api = api(library_path())
            self.number = self.api.number("cuDeviceGet", number)
            self.context = self.api.handle("cuDevicePrimaryCtxRetain", self.number)
        except (OSError, DeviceError) as error:
            raise FirstlightError(
                "F516",
                "there is no CUDA device",
                where=where,
                why=str(error),
                try_="a machine with an NVIDIA GPU and its driver, or an artifact for this one:"
                " firstlight compile CHECKPOINT --target cpu",
            ) from error
        name = ctypes.create_string_buffer(256)
        self.api("cuDeviceGetName", name, len(name), self.number)
        self.name = name.value.decode(errors="replace")
        self.capability = self.attribute(MAJOR), self.attribute(MINOR)
        version = self.api.number("cuDriverGetVersion")
        self.cuda = version // 1000, version % 1000 // 10
        self._owned = Owned()
        self._closed = weakref.finalize(self, _release, self.api, self.number)

    def attribute(self, number: int) -> int:
        """A CUdevice_attribute."""
        return self.api.number("cuDeviceGetAttribute", number, self.number)

    @contextmanager
    def current(self) -> Iterator[Api]:
        """The library, with the context current in this thread."""
        if not self._closed.alive:
            raise DeviceError("the model is closed")
        self.api("cuCtxPushCurrent_v2", self.context)
        try:
            yield self.api
        finally:
            self.api("cuCtxPopCurrent_v2", None)

    def own(self, owner: object, destroy: str, handle: ctypes.c_void_p) -> None:
        """Call ``destroy(handle)`` when `owner` goes, at the latest when the device is closed."""
        self._owned.own(owner, lambda: self._destroy(destroy, handle))

    def close(self) -> None:
        """Destroy what is left, the newest first, and release the context."""
        self._owned.close()
        self._closed()

    def _destroy(self, name: str, handle: ctypes.c_void_p) -> None:
        with self.current() as call:
            call(name, handle)


def _release(library: Api, device: int) -> None:
    with suppress(DeviceError):
        library("cuDevicePrimaryCtxRelease_v2", device)
