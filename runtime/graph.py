"""A compiled graph, loaded: named arrays in, named arrays out."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from firstlight.runtime.engine import Engine
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest
from firstlight.runtime.program import GRAPH, Port, Program
from firstlight.runtime.sizes import COUNT, value

Array = npt.NDArray[Any]


class ArenaContext(Protocol):
    """A context whose arena can be written and read: what a graph needs of a launcher."""

    position: int

    def run(self, entry: str, tokens: npt.NDArray[np.int32],
            logits: npt.NDArray[np.float32]) -> None:  # fmt: skip
        """Run an entry for len(tokens) of the open size."""

    def arena(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A part of the arena."""

    def write_arena(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Replace a part of the arena."""


class GraphModel:
    """An artifact that was compiled from ONNX. Made by ``load``; may be used by several threads.

    >>> with load("artifacts/encoder") as model:                           # doctest: +SKIP
    ...     outputs = model.run({"input_ids": ids})                        # name -> array
    """

    def __init__(self, manifest: Manifest, program: Program, engine: Engine) -> None:
        self.manifest = manifest
        self.program = program
        self.engine = engine
        self._entry = program.entries[GRAPH]
        self._lock = threading.Lock()
        self._context: ArenaContext | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """The graph's name."""
        return self.manifest.name

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Names, element types and shapes of the inputs, in the order of the graph that was
        compiled; "S" is the open size."""
        return self._in_order("inputs", self._entry.takes)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Names, element types and shapes of the outputs, in order."""
        return self._in_order("outputs", self._entry.gives)

    def _in_order(self, which: str, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        names = {name: i for i, name in enumerate((self.manifest.graph or {}).get(which, ()))}
        return tuple(sorted(ports, key=lambda port: names.get(port.name, len(names))))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs for all inputs, arrays of the declared element types and shapes.

        bfloat16 is given and returned as float32. Raises F614 for inputs that do not fit, F601
        after ``close``, F611 if a kernel fails.
        """
        arrays, size = self._checked(inputs)
        with self._lock:
            if self._closed:
                raise FirstlightError("F601", "this model is closed",
                                      where=str(self.manifest.directory),
                                      why="model.close() was called", try_="load(directory) again")
            if self._context is None:
                self._context = self._open()
            context = self._context
            context.position = 0
            for port, array in zip(self.inputs, arrays, strict=True):
                context.write_arena(port.offset, array.reshape(-1).view(np.uint8))
            context.run(GRAPH, np.zeros(size, np.int32), np.empty((1, 0), np.float32))
            return {port.name: self._read(context, port, size) for port in self.outputs}

    def session(self) -> Any:
        """A graph has no sequences. Raises F615."""
        raise FirstlightError("F615", "this artifact is a graph, not a language model",
                              where=str(self.manifest.directory),
                              why="it was compiled from ONNX and has named inputs and outputs",
                              try_="load(directory).run({name: array}), or firstlight run DIR "
                              "--inputs IN.npz --outputs OUT.npz")

    def close(self) -> None:
        """Stop the threads."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self.engine.close()

    def __enter__(self) -> GraphModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> ArenaContext:
        context = self.engine.context()
        if not hasattr(context, "write_arena"):
            raise FirstlightError("F615", f"launcher {self.manifest.launcher!r} runs no graphs",
                                  where=str(self.manifest.directory),
                                  why="its memory cannot be written from outside",
                                  try_="compile the graph for another target")
        return cast(ArenaContext, context)

    def _checked(self, inputs: Mapping[str, Any]) -> tuple[list[Array], int]:
        names = {port.name for port in self.inputs}
        for name in (*(names - set(inputs)), *(set(inputs) - names)):
            raise _unfit(name, "it is missing" if name in names else "there is no such input",
                         f"inputs are: {', '.join(sorted(names))}")
        arrays, size = [], None
        for port in self.inputs:
            array = np.asarray(inputs[port.name])
            declared = "float32" if port.dtype == "bfloat16" else port.dtype
            if array.dtype.name != declared:
                raise _unfit(port.name, f"it is {array.dtype.name}", f"an array of {declared}")
            if array.ndim != len(port.shape):
                raise _unfit(port.name, f"its shape is {array.shape}", f"shape {_spell(port)}")
            for found, wanted in zip(array.shape, port.shape, strict=True):
                if wanted == COUNT:
                    if size is not None and size != found:
                        raise _unfit(port.name, f"its open size is {found}, another's {size}",
                                     "inputs of one size")
                    size = found
            arrays.append(array)
        # without an open size, the count is what kernels were made for
        size = self._entry.max_tokens if size is None else size
        if not 1 <= size <= self._entry.max_tokens:
            raise _unfit(str((self.manifest.graph or {}).get("symbol", "")),
                         f"the open size is {size}", f"1 to {self._entry.max_tokens}")
        for port, array in zip(self.inputs, arrays, strict=True):
            if array.shape != tuple(value(n, size) for n in port.shape):
                raise _unfit(port.name, f"its shape is {array.shape}", f"shape {_spell(port)}")
        return [_stored(port, array) for port, array in zip(self.inputs, arrays, strict=True)], size

    def _read(self, context: ArenaContext, port: Port, size: int) -> Array:
        shape = tuple(value(n, size) for n in port.shape)
        stored = _memory(port.dtype)
        data = context.arena(port.offset, int(np.prod(shape, dtype=np.int64)) * stored.itemsize)
        kept = np.array(data).view(stored).reshape(shape)
        return kept.astype("float32" if port.dtype == "bfloat16" else port.dtype)


def run_file(artifact: Path, inputs: Path, outputs: Path, threads: int | None = None
             ) -> dict[str, list[Any]]:
    """Run a graph on the arrays of an .npz file, and write its outputs to another.

    Returns element type and shape of each output. Raises F614 for a file that has no arrays, F615
    for an artifact that is no graph, and as `load` and `GraphModel.run`.
    """
    from firstlight.runtime.model import load

    with load(artifact, threads=threads) as model:
        if not isinstance(model, GraphModel):
            raise FirstlightError("F615", "this artifact is a language model, not a graph",
                                  where=str(artifact), why="it reads tokens",
                                  try_="firstlight run DIR --prompt TEXT")
        try:
            with np.load(inputs, allow_pickle=False) as file:
                given = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise FirstlightError("F614", "the arrays cannot be read", where=str(inputs),
                                  why=" ".join(str(error).split())[:200] or type(error).__name__,
                                  try_="numpy.savez(FILE, NAME=array, ...)") from error
        found = model.run(given)
    whole = outputs.with_name(f".{outputs.name}.{os.getpid()}")
    try:
        with open(whole, "wb") as out:
            np.savez(out, allow_pickle=False, **found)
        whole.replace(outputs)
    except OSError as error:
        raise FirstlightError("F614", "the outputs cannot be written", where=str(outputs),
                              why=error.strerror or str(error), try_="another place") from error
    finally:
        whole.unlink(missing_ok=True)
    return {name: [array.dtype.name, *array.shape] for name, array in found.items()}


def _memory(dtype: str) -> np.dtype[Any]:
    """The element type in the arena."""
    if dtype == "bool":
        return np.dtype(np.bool_)
    return np.dtype(np.float32 if "float" in dtype else np.int32)


def _stored(port: Port, array: Array) -> Array:
    if array.dtype == np.int64 and array.size and not (
            -(1 << 31) <= array.min() and array.max() < 1 << 31):
        raise _unfit(port.name, f"it has {array.min()} to {array.max()}",
                     "integers of 32 bits: kernels compute with them")
    return np.ascontiguousarray(array, _memory(port.dtype))


def _spell(port: Port) -> str:
    return "[" + ", ".join(str(n) for n in port.shape) + "]"


def _unfit(name: str, why: str, try_: str) -> FirstlightError:
    return FirstlightError("F614", "an input of the graph does not fit", where=f"input {name!r}",
                           why=why, try_=try_)
