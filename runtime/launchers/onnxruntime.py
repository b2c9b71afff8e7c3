"""The onnxruntime launcher: whole entries as ONNX models, states bound to memory of our own.

State never goes through Python's arrays: input and output of each state are bound to addresses.
Where the graph reads a state only in the node that writes it, both are the same address, and
nothing is copied; other states (rings, unfinished blocks) have two homes and take turns. Entries
are bound in the length that is needed, so that the work of a call grows with its position.
"""

from __future__ import annotations

import json
import mmap
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.runtime import cpu
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest, StateTensor, malformed
from firstlight.runtime.program import Program

ROWS = 64
"""Entries are bound in multiples of this, so that most calls find everything bound already."""
MAX_THREADS = 256
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_SIDE = 1024
"""Of the square matrices with which floating point speed is measured."""


@dataclass(frozen=True)
class Through:
    """How a state goes through a graph: names of input and output, and whether both may be one."""

    tensor: StateTensor
    input: str
    output: str
    in_place: bool


class OnnxEngine:
    """The models of one artifact; each is opened when it is first needed."""

    def __init__(self, manifest: Manifest, program: Program, threads: int, ort: Any) -> None:
        self.manifest, self.program, self.threads = manifest, program, threads
        self._ort, self._lock = ort, threading.Lock()
        self._models: dict[str, tuple[Any, tuple[Through, ...]]] = {}

    def model(self, entry: str) -> tuple[Any, tuple[Through, ...]]:
        """The session of an entry, and how each state goes through it."""
        with self._lock:
            if entry not in self._models:
                session = self._open(self.manifest.path(f"{entry}.onnx"), entry)
                self._models[entry] = session, _states(session, self.manifest)
            return self._models[entry]

    def context(self) -> OnnxContext:
        """Memory for a new sequence: zeros that cost nothing until touched."""
        return OnnxContext(self)

    def read_bandwidth(self, nbytes: int = 1 << 28, repeats: int = 5) -> float:
        """Bytes per second of the best of several plain reads, on one thread."""
        data = np.ones(max(nbytes // 8, 1))
        return data.nbytes / _best(data.sum, repeats)

    def flops(self, repeats: int = 5) -> float:
        """Float32 operations per second of the best of several products of square matrices."""
        a = np.ones((_SIDE, _SIDE), np.float32)
        return 2 * _SIDE**3 / _best(lambda: a @ a, repeats)

    def close(self) -> None:
        """Forget the models."""
        with self._lock:
            self._models.clear()

    def _open(self, path: Path, entry: str) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        # Products with packed weights would round what they multiply to 8 bits by default.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if entry == "decode":
            # Packed copies of the weights pay for many tokens; for one, they are as the file.
            options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            return self._ort.InferenceSession(str(path), options,
                                              providers=["CPUExecutionProvider"])  # fmt: skip
        except Exception as error:  # its exceptions have no common base of their own
            raise FirstlightError(
                "F513",
                "the artifact's code cannot be loaded",
                where=str(path),
                why=_first_line(error),
                try_="firstlight verify DIR; then compile again, or another onnxruntime",
            ) from error


class OnnxContext:
    """The state of one sequence. Not for two threads at once."""

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        size = engine.manifest.state_bytes
        self._blocks = _anonymous(size), _anonymous(size)
        self._at = (0, 0)
        self._pos = np.zeros(1, np.int32)
        self._logits = np.zeros(0, np.float32)
        self._calls: dict[tuple[Any, ...], _Call] = {}

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        return self._at[0]

    @position.setter
    def position(self, value: int) -> None:
        self._at = value, self._at[1]

    def read_state(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A view of a part of the state block; it is the part of one tensor."""
        return self._home(offset)[offset : offset + nbytes]

    def write_state(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Replace a part of the state block."""
        self._home(offset)[offset : offset + data.size] = data

    def run(
        self, entry: str, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]
    ) -> None:
        """Feed ``tokens`` [S] and fill ``logits`` [1 or S, vocab]; see ``engine.Context``."""
        position, turn = self._at
        end = position + len(tokens)
        call = self._call(entry, len(tokens), len(logits), end, turn)
        call.tokens[0] = tokens
        self._pos[0] = position
        try:
            call.run()
        except Exception as error:  # its exceptions have no common base of their own
            raise FirstlightError(
                "F611",
                f"{entry}.onnx failed",
                where=f"position {position}",
                why=_first_line(error),
                try_="start a new session, with fewer others if memory is short",
            ) from error
        logits[...] = self._logits[: logits.size].reshape(logits.shape)
        self._at = end, 1 - turn  # one assignment: no signal comes between the two

    def _call(self, entry: str, tokens: int, rows: int, end: int, turn: int) -> _Call:
        """Everything bound; sizes of entries are rounded up, so that calls can be kept."""
        session, states = self._engine.model(entry)
        length = -(-end // ROWS) * ROWS
        vocab = self._engine.manifest.vocab_size
        if self._logits.size < rows * vocab:  # one room for all calls: logits of many are large
            self._logits = np.zeros(rows * vocab, np.float32)
            self._calls.clear()
        key = entry, tokens, rows, length, turn
        if key not in self._calls:
            if len(self._calls) > 32:
                self._calls.clear()
            logits = self._logits[: rows * vocab].reshape(1, rows, vocab)
            self._calls[key] = _Call(session, states, self._blocks, self._pos, tokens, logits,
                                     length, turn)  # fmt: skip
        return self._calls[key]

    def _home(self, offset: int) -> npt.NDArray[np.uint8]:
        """The block in which the tensor at an offset is now."""
        for state in self._engine.model("decode")[1]:
            tensor = state.tensor
            if tensor.offset <= offset < tensor.offset + max(tensor.bytes, 1):
                return self._blocks[0 if state.in_place else self._at[1]]
        return self._blocks[0]


class _Call:
    """One entry bound to one context's memory, for one number of tokens."""

    def __init__(
        self,
        session: Any,
        states: tuple[Through, ...],
        blocks: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
        pos: npt.NDArray[np.int32],
        tokens: int,
        logits: npt.NDArray[np.float32],
        length: int,
        turn: int,
    ) -> None:
        self.tokens = np.zeros((1, tokens), np.int32)
        self._session, self._binding = session, session.io_binding()
        self._bind_input("tokens", self.tokens.ctypes.data, np.int32, self.tokens.shape)
        self._bind_input("pos", pos.ctypes.data, np.int32, pos.shape)
        self._bind_output("logits", logits.ctypes.data, logits.shape)
        for state in states:
            tensor = state.tensor
            used = -(-length // tensor.ratio) if tensor.kind == "entries" else tensor.rows
            shape = (1, max(1, min(tensor.rows, used)), tensor.width)
            old, new = (0, 0) if state.in_place else (turn, 1 - turn)
            self._bind_input(state.input, blocks[old].ctypes.data + tensor.offset, np.float32,
                             shape)  # fmt: skip
            self._bind_output(state.output, blocks[new].ctypes.data + tensor.offset, shape)

    def run(self) -> None:
        """Raises what onnxruntime raises."""
        self._session.run_with_iobinding(self._binding)

    def _bind_input(self, name: str, address: int, dtype: Any, shape: tuple[int, ...]) -> None:
        self._binding.bind_input(name, "cpu", 0, dtype, shape, address)

    def _bind_output(self, name: str, address: int, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, shape, address)


def open_engine(manifest: Manifest, program: Program, threads: int | None = None) -> OnnxEngine:
    """Find onnxruntime; models are opened when they are first run.

    Raises F512 for a number of threads out of range, F515 without onnxruntime.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise FirstlightError(
            "F515",
            "the package 'onnxruntime' is not installed",
            where=str(manifest.directory),
            why=f"this artifact is made of ONNX models: {error}",
            try_="pip install 'firstlight[onnx]'",
        ) from error
    count = min(cpu.usable_cores(), MAX_THREADS) if threads is None else threads
    if type(count) is not int or not 1 <= count <= MAX_THREADS:
        raise FirstlightError(
            "F512",
            f"threads={threads!r} is not a usable number of threads",
            where="load(threads=...)",
            why=f"it must be a whole number from 1 to {MAX_THREADS}",
            try_=f"threads=None    uses the {cpu.usable_cores()} cores this process may run on",
        )
    return OnnxEngine(manifest, program, count, ort)


def _states(session: Any, manifest: Manifest) -> tuple[Through, ...]:
    """What the model's metadata say of its states; all of the manifest's, and only those."""
    try:
        records = json.loads(session.get_modelmeta().custom_metadata_map["firstlight.states"])
        known = {tensor.name: tensor for tensor in manifest.state}
        found = tuple(
            Through(known.pop(r["name"]), str(r["input"]), str(r["output"]), r["in_place"] is True)
            for r in records
        )
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(manifest.directory, f"a model's states make no sense: {error!r}") from error
    if known:
        raise malformed(manifest.directory, f"no model has the state {next(iter(known))}")
    return found


def _anonymous(nbytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory on a page boundary that the system provides page by page when touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    try:
        return np.frombuffer(mmap.mmap(-1, max(nbytes, 1), flags=flags), np.uint8)
    except (OSError, OverflowError) as error:
        raise FirstlightError(
            "F514",
            f"there is no memory for the state of a session ({nbytes} bytes)",
            where="this process",
            why="the system refused to reserve it",
            try_="close other sessions, or compile with a smaller --context or --chunk",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _best(function: Any, repeats: int) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)
