"""The CPU launcher: a shared object with kernels and the native launcher, driven by ctypes.

An artifact's words become arrays of packed arguments (``native/launcher.h``): one template for all
sessions, and per session a copy with the addresses of its own memory added, by numpy.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from firstlight.runtime import cpu, pages
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import ARENA, STATE, TOKENS, WEIGHT, Entry, Program
from firstlight.runtime.safetensors import SafetensorsFile
from firstlight.runtime.weight_files import reader

ALIGN = 64
MAX_THREADS = 256

_ARG = np.dtype([("type", "<i4"), ("zero", "<u4"), ("value", "<i8")])
_STEP = np.dtype([("kernel", "<u8"), ("args", "<u8"), ("n_args", "<i8")])
_PATCH = np.dtype([("where", "<u8"), ("base", "<i8"), ("scale", "<i8"), ("slot", "<i8")])
_VALUE_OFFSET = 8
_INTEGER_TYPE, _POINTER_TYPE = 1, 4
_TOKENS_SLOT, _POSITION_SLOT = 0, 1
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_FMA_ROUNDS = 1 << 20


class CpuEngine:
    """Code, weights and threads of one artifact."""

    def __init__(self, manifest: Manifest, program: Program, threads: int) -> None:
        self.manifest = manifest
        self.program = program
        self.library = _open_library(manifest.path("code/model.so"))
        self.kernels = _addresses(self.library, program, manifest)
        self._weights: list[npt.NDArray[np.uint8]] = []
        weights = self._map_weights()
        self.templates = {name: self._template(e, weights) for name, e in program.entries.items()}
        self.pool = self.library.fl_start(threads)
        if not self.pool:
            raise _no_memory("a thread pool", 0)
        self.threads = int(self.library.fl_threads(self.pool))
        self._stop = weakref.finalize(self, self.library.fl_stop, self.pool)
        self._stop.atexit = False  # a daemon thread may still be running then

    def context(self) -> CpuContext:
        """Memory for a new sequence: the state reads as zeros and costs nothing until touched."""
        return CpuContext(self)

    def read_bandwidth(self, nbytes: int = 1 << 28, repeats: int = 5) -> float:
        """Bytes per second of the best of several plain reads of ``nbytes``, on all threads."""
        data = _anonymous(max(nbytes // 1024, 1) * 1024, "a buffer to read")
        data.fill(1)  # untouched pages are all the same page of zeros, read from the cache
        best = min(
            _timed(self.library.fl_read, self.pool, data.ctypes.data, data.size)
            for _ in range(repeats)
        )
        return data.size / best

    def flops(self, repeats: int = 5) -> float:
        """Float32 operations per second of the best of several multiply-add loops."""
        done = int(self.library.fl_fma(self.pool, _FMA_ROUNDS))
        return done / min(
            _timed(self.library.fl_fma, self.pool, _FMA_ROUNDS) for _ in range(repeats)
        )

    def close(self) -> None:
        """Stop the threads; weights stay in memory while a context refers to them."""
        self._stop()

    def _map_weights(self) -> npt.NDArray[np.int64]:
        """Addresses of the program's weights, every file in memory once."""
        paths = {file: self.manifest.path(file) for file, _ in self.program.weights}
        read = reader(list(paths.values()))
        files: dict[str, tuple[SafetensorsFile, int]] = {}
        addresses = np.empty(len(self.program.weights), np.int64)
        for i, (file, name) in enumerate(self.program.weights):
            if file not in files:
                # Not the mapping of SafetensorsFile: its advice for sparse reading would make the
                # first token fetch page by page.
                try:
                    self._weights.append(read(paths[file]))
                except OSError as error:
                    if error.errno != errno.ENOMEM:
                        raise malformed(paths[file], f"it cannot be read: {error}") from error
                    size = paths[file].stat().st_size
                    raise _no_memory(f"the weights in {file}", size) from error
                files[file] = SafetensorsFile(paths[file], "F5"), self._weights[-1].ctypes.data
            header, base = files[file]
            if name not in header.tensors:
                raise malformed(header.path, f"it has no tensor {name}, which program.json uses")
            addresses[i] = base + header.tensors[name].offset
        if (addresses % ALIGN).any():
            name = self.program.weights[int(np.flatnonzero(addresses % ALIGN)[0])][1]
            raise malformed(self.manifest.directory, f"weight {name} is not {ALIGN}-byte aligned")
        return addresses

    def _template(self, entry: Entry, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """Arguments with weights resolved and offsets where a session's addresses will go."""
        args = np.zeros(entry.space.size, _ARG)
        pointer = np.isin(entry.space, (ARENA, WEIGHT, STATE))
        args["type"] = np.where(pointer, _POINTER_TYPE, _INTEGER_TYPE)
        args["value"] = entry.value
        is_weight = entry.space == WEIGHT
        args["value"][is_weight] = weights[entry.value[is_weight]]
        return args


class CpuContext:
    """State block, arena and argument arrays of one sequence. Not for two threads at once."""

    def __init__(self, engine: CpuEngine) -> None:
        self._engine = engine
        self._arena = _anonymous(engine.program.arena_bytes, "the arena")
        self._state = _anonymous(engine.manifest.state_bytes, "the state of a session",
                                 _deep(engine.manifest))
        self._scalars = np.zeros(2, np.int64)
        self._calls: dict[str, _Call] = {}

    @property
    def position(self) -> int:
        """Tokens fed so far; native code moves it when a run succeeds."""
        return int(self._scalars[_POSITION_SLOT])

    @position.setter
    def position(self, value: int) -> None:
        self._scalars[_POSITION_SLOT] = value

    def read_state(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A view of a part of the state block."""
        return self._state[offset : offset + nbytes]

    def write_state(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Replace a part of the state block."""
        self._state[offset : offset + data.size] = data

    def run(
        self, entry: str, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]
    ) -> None:
        """Feed ``tokens`` [S] and fill ``logits`` [1 or S, vocab]; see ``engine.Context``."""
        call = self._ready(entry, tokens)
        failed = call.run(self._scalars)
        if failed >= 0:
            raise self._kernel_failed(entry, failed)
        logits[...] = call.logits[: len(logits)]

    def steps(self, entry: str, tokens: npt.NDArray[np.int32]) -> Iterator[int]:
        """Feed ``tokens`` [S] step by step; see ``trace.SteppingContext``."""
        call, begin = self._ready(entry, tokens), self.position
        for step in range(call.count):
            failed = call.run_step(self._scalars, step)
            self.position = begin  # the native loop moves it after every run
            if failed >= 0:
                raise self._kernel_failed(entry, step)
            yield step
        self.position = begin + len(tokens)

    def arena(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A view of a part of the arena."""
        return self._arena[offset : offset + nbytes]

    def write_arena(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Replace a part of the arena."""
        self._arena[offset : offset + data.size] = data

    def _ready(self, entry: str, tokens: npt.NDArray[np.int32]) -> _Call:
        """The entry bound to this memory, its inputs set."""
        call = self._calls.get(entry)
        if call is None:
            call = self._calls[entry] = _Call(self._engine, entry, self._arena, self._state)
        n = len(tokens)
        call.tokens[:n] = tokens
        call.pos[0] = self._scalars[_POSITION_SLOT]
        call.last[0] = n - 1
        self._scalars[_TOKENS_SLOT] = n
        return call

    def _kernel_failed(self, entry: str, step: int) -> FirstlightError:
        program = self._engine.program
        kernel = program.kernels[int(program.entries[entry].kernel[step])]
        text = (self._engine.library.fl_error() or b"").decode(errors="replace")
        return FirstlightError(
            "F611",
            f"kernel {kernel} failed (step {step} of {entry})",
            where=f"position {self.position}",
            why=text or "it gave no reason",
            try_="start a new session, with fewer others if memory is short",
        )


class _Call:
    """One entry bound to one context's memory: what fl_run is called with."""

    def __init__(
        self,
        engine: CpuEngine,
        name: str,
        arena: npt.NDArray[np.uint8],
        state: npt.NDArray[np.uint8],
    ) -> None:
        entry = engine.program.entries[name]
        self._args = args = engine.templates[name].copy()
        args["value"][entry.space == ARENA] += arena.ctypes.data
        args["value"][entry.space == STATE] += state.ctypes.data
        self._steps = steps = np.zeros(entry.kernel.size, _STEP)
        steps["kernel"] = engine.kernels[entry.kernel]
        steps["args"] = args.ctypes.data + _ARG.itemsize * entry.first
        steps["n_args"] = entry.count
        patched = np.flatnonzero(entry.space == TOKENS)
        self._patches = patches = np.zeros(patched.size, _PATCH)
        patches["where"] = args.ctypes.data + _ARG.itemsize * patched + _VALUE_OFFSET
        patches["scale"] = 1
        patches["slot"] = _TOKENS_SLOT

        def input_of(key: str, n: int = 1) -> npt.NDArray[np.int32]:
            at = entry.inputs.get(key)
            return np.zeros(n, np.int32) if at is None else arena[at : at + 4 * n].view(np.int32)

        self.tokens = input_of("tokens", entry.max_tokens)
        self.pos, self.last = input_of("pos"), input_of("last")
        rows = entry.max_tokens if entry.every_row else 1
        vocab = engine.manifest.vocab_size
        results = arena[entry.logits : entry.logits + 4 * rows * vocab].view(np.float32)
        self.logits = results.reshape(rows, vocab)
        self._run = engine.library.fl_run
        self._fixed = (
            engine.pool, steps.ctypes.data, steps.size, patches.ctypes.data, patches.size
        )  # fmt: skip

    def run(self, scalars: npt.NDArray[np.int64]) -> int:
        """The index of the step that failed, or -1."""
        return int(self._run(*self._fixed, scalars.ctypes.data))

    @property
    def count(self) -> int:
        """How many steps there are."""
        return int(self._steps.size)

    def run_step(self, scalars: npt.NDArray[np.int64], step: int) -> int:
        """Run one step alone: 0 if it failed, or -1."""
        pool, steps, _, patches, count = self._fixed
        at = steps + _STEP.itemsize * step
        return int(self._run(pool, at, 1, patches, count, scalars.ctypes.data))


def open_engine(manifest: Manifest, program: Program, threads: int | None = None) -> CpuEngine:
    """Map an artifact's code and weights and start its threads (default: the affinity mask).

    Raises F510 for another CPU, F512 for a number of threads out of range, F513 if the system
    cannot load the code, F502 if program and code disagree.
    """
    cpu.check(manifest.requires, str(manifest.directory))
    count = min(cpu.usable_cores(), MAX_THREADS) if threads is None else threads
    if type(count) is not int or not 1 <= count <= MAX_THREADS:
        raise FirstlightError(
            "F512",
            f"threads={threads!r} is not a usable number of threads",
            where="load(threads=...)",
            why=f"it must be a whole number from 1 to {MAX_THREADS}",
            try_=f"threads=None    uses the {cpu.usable_cores()} cores this process may run on",
        )
    return CpuEngine(manifest, program, count)


def _open_library(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path.resolve()))
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        for name, result, arguments in (
            ("fl_start", pointer, [ctypes.c_int]),
            ("fl_stop", None, [pointer]),
            ("fl_threads", ctypes.c_int, [pointer]),
            ("fl_run", integer, [pointer, pointer, integer, pointer, integer, pointer]),
            ("fl_error", ctypes.c_char_p, []),
            ("fl_read", integer, [pointer, pointer, integer]),
            ("fl_fma", integer, [pointer, integer]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise FirstlightError(
            "F513",
            "the artifact's code cannot be loaded",
            where=str(path),
            why=str(error),
            try_="firstlight verify DIR; then compile again on this machine",
        ) from error
    return library


def _addresses(
    library: ctypes.CDLL, program: Program, manifest: Manifest
) -> npt.NDArray[np.uint64]:
    addresses = np.empty(len(program.kernels), np.uint64)
    for i, kernel in enumerate(program.kernels):
        try:
            function = getattr(library, f"__tvm_ffi_{kernel}")
        except AttributeError as error:
            raise malformed(manifest.directory, f"the code has no kernel {kernel}") from error
        addresses[i] = ctypes.cast(function, ctypes.c_void_p).value or 0
    return addresses


def _deep(manifest: Manifest) -> list[tuple[int, int]]:
    """Parts of the state, first byte and bytes, that should have huge pages: what only long
    sequences reach, because one of 2 MiB takes as long to clear as 512 of the others. Of large
    tensors only: each is a mapping of its own then, and a process may have some 65,000."""
    if pages.setting() == "0":
        return []
    return [(tensor.offset + pages.HUGE, tensor.bytes - pages.HUGE)
            for tensor in manifest.state if pages.pay(tensor.bytes)]


def _anonymous(
    nbytes: int, purpose: str, huge: Sequence[tuple[int, int]] = ()
) -> npt.NDArray[np.uint8]:
    """Zeroed memory on a page boundary that the system provides page by page when touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    try:
        room = mmap.mmap(-1, max(nbytes, 1), flags=flags)
    except (OSError, OverflowError) as error:
        raise _no_memory(purpose, nbytes) from error
    for start, size in huge:
        pages.advise(room, start, size)
    return np.frombuffer(room, np.uint8)


def _no_memory(purpose: str, nbytes: int) -> FirstlightError:
    return FirstlightError(
        "F514",
        f"there is no memory for {purpose} ({nbytes} bytes)",
        where="this process",
        why="the system refused to reserve it",
        try_="close other sessions, or compile with a smaller --context or --chunk",
    )


def _timed(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
