"""A package `acl` without a device behind it: it checks every call as strictly as AscendCL might.

What is refused gives a status and a reason (`refused`, and `get_recent_err_msg` once). Work of a
stream is done when somebody waits for it, from memory as it is then: what a launcher reads too
early, or overwrites too early, is wrong. An object is one of `fake_object`; what its kernels do is
`executor`'s affair.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

INVALID, REPEATED, UNINITIALIZED = 100000, 100002, 100001
PARAM, CONTEXT, STREAM, NO_DEVICE, MEMORY = 107000, 107002, 107003, 107001, 207001
NO_FUNCTION, MAGIC, EXCEPTION = 107005, 107020, 507035
VECTOR, CUBE = 0x41415246, 0x43554245
KINDS = {"aiv": VECTOR, "aic": CUBE, "mix": None}
GARBAGE = 0xA5

Executor = Callable[[str, int, list[np.ndarray], list[int]], None]
"""Does a launch: kernel, blocks, memories (each to the end of its allocation), numbers."""


def fake_object(kind: str, functions: dict[str, tuple[int, int]]) -> bytes:
    """An object of a kind ("aiv", "aic", "mix"): (addresses, numbers) that each function takes."""
    return b"\x7fELF" + json.dumps({"kind": kind, "functions": functions}).encode()


def finish(artifact: Path) -> None:
    """Stand in for build.sh: an object for each module of an artifact's launch table."""
    table = json.loads((artifact / "code/launch.json").read_text())
    for record in table["kernels"].values():
        for launch in record["launches"]:
            module = Path(table["modules"][launch["module"]]).stem
            counts = Counter(isinstance(a, str) and a == "S" for a in launch["args"])
            path = artifact / "code/objects" / f"{module}.o"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(fake_object(table["chip"]["cores"][module], {
                launch["entry"]: (counts[False], counts[True] + 3)}))


class Refused(Exception):
    """A call that a real library would not take."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Stream:
    """Work that nobody has waited for yet; after a failure it stays broken."""

    context: int
    work: list[Callable[[], None]] = field(default_factory=list)
    broken: int = 0


@dataclass
class Arguments:
    """A list of arguments in the caller's memory."""

    function: int
    block: bytes = b""
    room: int = 0
    done: bool = False


class FakeAcl:
    """The state of the pretended driver, and the module `acl` over it.

    Attributes:
        calls: how often each function was called.
        refused: reasons, in order.
        devices, soc, room: what there is: devices, the chip's name, bytes of memory.
    """

    def __init__(self, devices: int = 1, soc: str = "Ascend950PR_9579", room: int = 1 << 30
                 ) -> None:
        self.devices, self.soc, self.room = devices, soc, room
        self.calls: Counter[str] = Counter()
        self.refused: list[str] = []
        self.executor: Executor | None = None
        self.launched: list[tuple[str, int, bytes]] = []
        self._said = ""
        self.initialized = self.finalized = False
        self.set_devices: Counter[int] = Counter()
        self.contexts: dict[int, int] = {}
        self.streams: dict[int, Stream] = {}
        self.memories: dict[int, np.ndarray] = {}
        self.hosts: dict[int, np.ndarray] = {}
        self.binaries: dict[int, dict[str, Any]] = {}
        self.functions: dict[int, tuple[int, str]] = {}
        self.lists: dict[int, Arguments] = {}
        self._numbers = itertools.count(0x7000, 0x10)
        self._thread = threading.local()
        self.module = SimpleNamespace(
            init=self._call("init"), finalize=self._call("finalize"),
            get_soc_name=lambda: self.soc, get_recent_err_msg=self._last,
            get_device_capability=self._call("get_device_capability", 1),
            rt=SimpleNamespace(**{name: self._call(f"rt_{name}", makes) for name, makes in (
                ("get_device_count", 1), ("set_device", 0), ("reset_device", 0),
                ("create_context", 1), ("destroy_context", 0), ("get_context", 1),
                ("set_context", 0), ("create_stream", 1), ("destroy_stream", 0),
                ("synchronize_stream", 0), ("malloc", 1), ("free", 0), ("malloc_host", 1),
                ("free_host", 0), ("memcpy", 0), ("memcpy_async", 0), ("memset_async", 0),
                ("binary_load_from_data", 1), ("binary_unload", 0), ("binary_get_function", 1),
                ("kernel_args_get_handle_mem_size", 1), ("kernel_args_get_mem_size", 1),
                ("kernel_args_init_by_user_mem", 0), ("kernel_args_append", 1),
                ("kernel_args_finalize", 0), ("launch_kernel_with_config", 0))}))

    def install(self) -> None:
        """Be the package that `import acl` finds."""
        sys.modules["acl"] = self.module            # type: ignore[assignment]

    def left(self) -> list[str]:
        """What a process that ends now would have forgotten."""
        kinds = {"contexts": self.contexts, "streams": self.streams, "memory": self.memories,
                 "host memory": self.hosts, "binaries": self.binaries}
        found = [f"{len(some)} {kind}" for kind, some in kinds.items() if some]
        found += [f"device {n} is still set" for n, times in self.set_devices.items() if times]
        if self.initialized and not self.finalized:
            found.append("no finalize")
        return found

    def _call(self, name: str, makes: int = 0) -> Callable[..., Any]:
        method = getattr(self, f"_{name}")
        spelled = name.replace("rt_", "rt.", 1)

        @functools.wraps(method)
        def call(*arguments: Any) -> Any:
            self.calls[spelled] += 1
            try:
                if name != "init" and (not self.initialized or self.finalized):
                    raise Refused(UNINITIALIZED, "it is not initialized")
                made, status = method(*arguments), 0
            except Refused as error:
                self._said = f"{spelled}: {error}"
                if name != "rt_get_context":        # to have none is an answer, too
                    self.refused.append(self._said)
                made, status = 0, error.status
            return (made, status) if makes else status

        return call

    def _last(self) -> str:
        said, self._said = self._said, ""
        return said

    # -- devices, contexts, streams --------------------------------------------------------------

    def _init(self) -> None:
        if self.initialized:
            raise Refused(REPEATED, "it is initialized")
        self.initialized = True

    def _finalize(self) -> None:
        self.finalized = True

    def _get_device_capability(self, device: int, what: int) -> int:
        _need(what == 0, "a capability that is unknown")
        return 28

    def _rt_get_device_count(self) -> int:
        return self.devices

    def _rt_set_device(self, device: int) -> None:
        _need(0 <= device < self.devices, "no such device", NO_DEVICE)
        self.set_devices[device] += 1

    def _rt_reset_device(self, device: int) -> None:
        _need(self.set_devices[device] > 0, "the device is not set", NO_DEVICE)
        self.set_devices[device] -= 1

    def _rt_create_context(self, device: int) -> int:
        _need(self.set_devices[device] > 0, "the device is not set", NO_DEVICE)
        made = next(self._numbers)
        self.contexts[made] = device
        self._thread.context = made
        return made

    def _rt_destroy_context(self, context: int) -> None:
        _need(context in self.contexts, "no such context", CONTEXT)
        del self.contexts[context]

    def _rt_get_context(self) -> int:
        return self._context()

    def _rt_set_context(self, context: int) -> None:
        _need(context in self.contexts, "no such context", CONTEXT)
        self._thread.context = context

    def _context(self) -> int:
        current = int(getattr(self._thread, "context", 0))
        _need(current in self.contexts, "this thread has no context", CONTEXT)
        return current

    def _rt_create_stream(self) -> int:
        made = next(self._numbers)
        self.streams[made] = Stream(self._context())
        return made

    def _rt_destroy_stream(self, stream: int) -> None:
        _need(not self._stream(stream).work, "work in it was not awaited", STREAM)
        del self.streams[stream]

    def _rt_synchronize_stream(self, stream: int) -> None:
        one = self._stream(stream)
        work, one.work = one.work, []
        for step in work:
            if not one.broken:
                try:
                    step()
                except Refused as error:
                    one.broken = error.status
                    raise
        _need(not one.broken, "the stream is broken by an earlier failure", one.broken)

    def _stream(self, stream: int) -> Stream:
        _need(stream in self.streams, "no such stream", STREAM)
        one = self.streams[stream]
        _need(one.context == self._context(), "a stream of another context", CONTEXT)
        return one

    # -- memory ----------------------------------------------------------------------------------

    def _rt_malloc(self, nbytes: int, policy: int) -> int:
        self._context()
        _need(nbytes > 0 and policy in (0, 1, 2), "no bytes, or no such policy")
        used = sum(m.size for m in self.memories.values())
        _need(used + nbytes <= self.room, "out of memory", MEMORY)
        return _keep(self.memories, nbytes)

    def _rt_free(self, address: int) -> None:
        self._context()
        _need(address in self.memories, "no memory of the device begins there")
        for stream in self.streams.values():
            _need(not stream.work, "it is freed while work waits")
        del self.memories[address]

    def _rt_malloc_host(self, nbytes: int) -> int:
        self._context()
        return _keep(self.hosts, nbytes)

    def _rt_free_host(self, address: int) -> None:
        _need(address in self.hosts, "no memory of the host begins there")
        del self.hosts[address]

    def _rt_memcpy(self, to: int, most: int, source: int, nbytes: int, kind: int) -> None:
        self._context()
        self._check_copy(to, most, source, nbytes, kind, False)
        ctypes.memmove(to, source, nbytes)

    def _rt_memcpy_async(self, to: int, most: int, source: int, nbytes: int, kind: int,
                         stream: int) -> None:
        one = self._stream(stream)
        self._check_copy(to, most, source, nbytes, kind, True)
        one.work.append(lambda: (self._check_copy(to, most, source, nbytes, kind, True),
                                 ctypes.memmove(to, source, nbytes))[0])

    def _check_copy(self, to: int, most: int, source: int, nbytes: int, kind: int, later: bool
                    ) -> None:
        _need(kind in (1, 2), "no kind of copy")
        _need(0 < nbytes <= most, f"{nbytes} bytes to a place of {most}")
        ends = ((to, most), (source, nbytes))
        device, host = ends if kind == 1 else ends[::-1]
        _need(self._within(self.memories, *device), "an address outside of the device's memory")
        if later:
            _need(self._within(self.hosts, *host), "a copy that waits, of pageable memory")

    def _rt_memset_async(self, address: int, most: int, value: int, nbytes: int, stream: int
                         ) -> None:
        one = self._stream(stream)
        _need(0 < nbytes <= most, f"{nbytes} bytes of a place of {most}")
        _need(self._within(self.memories, address, nbytes), "outside of the device's memory")
        one.work.append(lambda: ctypes.memset(address, value, nbytes) and None)

    @staticmethod
    def _within(memories: dict[int, np.ndarray], address: int, nbytes: int) -> bool:
        return any(start <= address and address + nbytes <= start + m.size
                   for start, m in memories.items())

    def memory(self, address: int) -> np.ndarray:
        """The device's bytes from an address to the end of what was allocated there."""
        for start, m in self.memories.items():
            if start <= address < start + m.size:
                return m[address - start:]
        raise Refused(EXCEPTION, f"a kernel is given {address:#x}, which is no memory")

    # -- code and launches -----------------------------------------------------------------------

    def _rt_binary_load_from_data(self, data: int, nbytes: int, options: list[Any]) -> int:
        self._context()
        _need(isinstance(options, list), "options are a list")
        raw = ctypes.string_at(data, nbytes)
        _need(raw[:4] == b"\x7fELF", "no object", MAGIC)
        found = json.loads(raw[4:])
        wanted = KINDS[found["kind"]]
        given = [o["value"] for o in options if o["type"] == 2]
        _need(given == ([] if wanted is None else [wanted]), "the magic is another core's", MAGIC)
        made = next(self._numbers)
        self.binaries[made] = found
        return made

    def _rt_binary_unload(self, binary: int) -> None:
        _need(binary in self.binaries, "no such binary")
        del self.binaries[binary]

    def _rt_binary_get_function(self, binary: int, name: str) -> int:
        self._context()
        _need(binary in self.binaries, "no such binary")
        _need(name in self.binaries[binary]["functions"], f"no function {name}", NO_FUNCTION)
        made = next(self._numbers)
        self.functions[made] = binary, name
        return made

    def _counts(self, function: int) -> tuple[int, int]:
        _need(function in self.functions, "no such function", NO_FUNCTION)
        binary, name = self.functions[function]
        _need(binary in self.binaries, "its binary was unloaded", NO_FUNCTION)
        pointers, numbers = self.binaries[binary]["functions"][name]
        return pointers, numbers

    def _rt_kernel_args_get_handle_mem_size(self, function: int) -> int:
        self._counts(function)
        return 128

    def _rt_kernel_args_get_mem_size(self, function: int, nbytes: int) -> int:
        self._counts(function)
        return nbytes + 64

    def _rt_kernel_args_init_by_user_mem(self, function: int, handle: int, room: int, nbytes: int
                                         ) -> None:
        self._counts(function)
        _need(handle % 8 == 0 and room % 8 == 0, "memory that is not aligned")
        ctypes.memset(handle, 1, 128), ctypes.memset(room, 1, nbytes)      # it must be there
        self.lists[handle] = Arguments(function, room=nbytes - 64)

    def _list(self, handle: int, done: bool) -> Arguments:
        _need(handle in self.lists, "a list of arguments that was not begun")
        _need(self.lists[handle].done == done,
              "the list is not finalized" if done else "the list is finalized")
        return self.lists[handle]

    def _rt_kernel_args_append(self, handle: int, value: int, nbytes: int) -> int:
        one = self._list(handle, False)
        one.block += b"\0" * (-len(one.block) % 8) + ctypes.string_at(value, nbytes)
        _need(len(one.block) <= one.room, "more arguments than room")
        return next(self._numbers)

    def _rt_kernel_args_finalize(self, handle: int) -> None:
        self._list(handle, False).done = True

    def _rt_launch_kernel_with_config(self, function: int, blocks: int, stream: int,
                                      config: list[Any], handle: int, reserve: int) -> None:
        pointers, numbers = self._counts(function)
        one, block = self._stream(stream), self._list(handle, True).block
        _need(self.lists[handle].function == function, "arguments of another function")
        _need(config == [] and reserve == 0, "the configuration is a list, the reserve 0")
        _need(0 < blocks < 65536, f"{blocks} blocks")
        name = self.functions[function][1]
        size = 8 * pointers + 4 * numbers
        _need(len(block) == size, f"{name} takes {size} bytes of arguments, not {len(block)}")
        addresses = np.frombuffer(block, np.uint64, pointers).tolist()
        rest = np.frombuffer(block, np.int32, numbers, 8 * pointers).tolist()
        _need(blocks == int(np.prod(rest[-3:])), f"{blocks} blocks of a grid {rest[-3:]}")
        one.work.append(lambda: self._execute(name, blocks, addresses, rest))
        self.launched.append((name, blocks, block))

    def _execute(self, name: str, blocks: int, addresses: Sequence[int], numbers: list[int]
                 ) -> None:
        memories = [self.memory(a) for a in addresses]
        self.calls["kernels"] += 1
        if self.executor is not None:
            self.executor(name, blocks, memories, numbers)


def _need(holds: bool, why: str, status: int = PARAM) -> None:
    if not holds:
        raise Refused(status, why)


def _keep(where: dict[int, np.ndarray], nbytes: int) -> int:
    room = np.full(nbytes + 512, GARBAGE, np.uint8)
    memory = room[-room.ctypes.data % 512:][:nbytes]
    where[memory.ctypes.data] = memory
    return int(memory.ctypes.data)
