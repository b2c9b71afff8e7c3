"""pyACL, the Python face of CANN's AscendCL: as much of it as a launcher needs.

The package ``acl`` comes with CANN (``source .../set_env.sh``). Its functions give a status, or
what they make and a status; 0 is success. FIRSTLIGHT_DEVICE is the number of the device (default
0, among those that ASCEND_RT_VISIBLE_DEVICES leaves visible).
"""

from __future__ import annotations

import atexit
import importlib
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from firstlight.runtime.device import DeviceError
from firstlight.runtime.drivers import Owned, ordinal
from firstlight.runtime.errors import FirstlightError

REPEATED = 100002
"""ACL_ERROR_REPEAT_INITIALIZE: somebody else in this process has initialized it, and ends it."""
CORES = 0
"""ACL_DEVICE_INFO_AI_CORE_NUM"""


class Api:
    """The package. Calls that fail raise DeviceError with the library's own words."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a function, e.g. "rt.malloc"; what it makes, or None."""
        function = self._module
        for part in name.split("."):
            function = getattr(function, part, None)
            if function is None:
                raise DeviceError(f"acl.{name} does not exist in this version of CANN")
        try:
            given = function(*arguments)
        except (TypeError, ValueError) as error:
            raise DeviceError(f"acl.{name}: {error}") from error
        *made, status = given if isinstance(given, tuple) else (given,)
        if status:
            raise DeviceError(f"acl.{name}: error {status}{self._says()}")
        return made[0] if made else None

    def soc_name(self) -> str:
        """The chip's name, e.g. "Ascend910B2"; "" if it gives none."""
        return str(self._module.get_soc_name() or "")

    def _says(self) -> str:
        try:
            text = self._module.get_recent_err_msg()
        except AttributeError:
            return ""
        return f", {text.strip()}" if text and text.strip() else ""


@cache
def api() -> Api:
    """The package, initialized once a process. Raises ImportError without it, or DeviceError."""
    module = importlib.import_module("acl")
    library, status = Api(module), module.init()
    if status == REPEATED:
        return library
    if status:
        raise DeviceError(f"acl.init: error {status}{library._says()}")
    atexit.register(module.finalize)
    return library


class Device:
    """A device and a context of our own on it, held until ``close``.

    Contexts are current in threads, so every use sets ours and puts back what was there. Raises
    F515 without the package, F516 without a device.
    """

    def __init__(self, where: str) -> None:
        self.number = ordinal()
        try:
            self.api = api()
            count = self.api("rt.get_device_count")
            if self.number >= count:
                raise DeviceError(f"there are {count} devices, and number {self.number} is wanted")
            before = self._current()
            self.api("rt.set_device", self.number)
            try:
                self.context = self.api("rt.create_context", self.number)
            except DeviceError:
                self.api("rt.reset_device", self.number)
                raise
            self._put_back(before)
        except ImportError as error:
            raise FirstlightError(
                "F515",
                "the package that talks to the device's driver cannot be imported",
                where=where,
                why=str(error),
                try_="source set_env.sh of CANN; its Python package acl is not on PyPI",
            ) from error
        except DeviceError as error:
            raise FirstlightError(
                "F516",
                "there is no device that AscendCL can use",
                where=where,
                why=str(error),
                try_="npu-smi info    shows the devices; or an artifact for this machine:"
                " firstlight compile CHECKPOINT --target cpu",
            ) from error
        self.name = self.api.soc_name()
        self._owned = Owned()
        self._closed = weakref.finalize(self, _release, self.api, self.number, self.context)

    @property
    def cores(self) -> int:
        """Cube cores; 1 if the library does not say."""
        with suppress(DeviceError):
            return int(self.api("get_device_capability", self.number, CORES))
        return 1

    @contextmanager
    def current(self) -> Iterator[Api]:
        """The library, with our context current in this thread."""
        if not self._closed.alive:
            raise DeviceError("the model is closed")
        before = self._current()
        if before != self.context:
            self.api("rt.set_context", self.context)
        try:
            yield self.api
        finally:
            self._put_back(before)

    def own(self, owner: object, destroy: str, handle: int) -> None:
        """Call ``destroy(handle)`` when `owner` goes, at the latest when the device is closed."""
        self._owned.own(owner, lambda: self._destroy(destroy, handle))

    def close(self) -> None:
        """Destroy what is left, the newest first, then the context; give the device back."""
        self._owned.close()
        self._closed()

    def _destroy(self, name: str, handle: int) -> None:
        with self.current() as call:
            call(name, handle)

    def _current(self) -> int:
        with suppress(DeviceError):             # a thread without any is an error to AscendCL
            return int(self.api("rt.get_context"))
        return 0

    def _put_back(self, before: int) -> None:
        if before and before != self.context:
            self.api("rt.set_context", before)


def _release(library: Api, device: int, context: int) -> None:
    with suppress(DeviceError):
        library("rt.destroy_context", context)
    with suppress(DeviceError):
        library("rt.reset_device", device)
