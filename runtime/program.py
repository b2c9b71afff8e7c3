"""``program.json``: the flat lists of kernel calls that the compiler planned."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.sizes import Size, value

ARENA, WEIGHT, STATE, INTEGER, TOKENS = (ord(c) for c in "awsit")
"""The spaces an argument word may point into; TOKENS is the number of tokens of the call."""

_WORDS = re.compile(r"(?:(?:[aws]:\d{1,18}|i:-?\d{1,18}|t)(?: |$))*")


GRAPH = "graph"
"""The entry of an artifact with named inputs and outputs."""
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint16", "uint8",
          "bool")
"""What inputs and outputs are declared as; in the arena they are float32, int32 or bytes."""


@dataclass(frozen=True)
class Port:
    """A named input or output: declared type, shape (sizes may have S), offset in the arena."""

    name: str
    dtype: str
    shape: tuple[Size, ...]
    offset: int


@dataclass(frozen=True)
class Entry:
    """One program: its kernel calls, one after the other.

    ``space``/``value`` are the argument words of all steps in a row; step i calls kernel
    ``kernel[i]`` with words ``first[i] : first[i] + count[i]``. ``inputs`` maps tokens, pos, slot
    and last to byte offsets in the arena (int32); ``logits`` is the offset of float32 results,
    one row, or one for each token if ``every_row``.
    """

    name: str
    max_tokens: int
    every_row: bool
    inputs: Mapping[str, int]
    logits: int
    kernel: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    space: npt.NDArray[np.uint8]
    value: npt.NDArray[np.int64]
    takes: tuple[Port, ...] = ()
    gives: tuple[Port, ...] = ()
    """Of a graph: its inputs and outputs."""


@dataclass(frozen=True)
class Program:
    """All entries of an artifact and the tables their words refer to.

    ``signatures`` has for each kernel what lies behind its words: a number of bytes for a pointer,
    "i" for an integer, "t" for the number of tokens. Programs written before there were any have
    none.
    """

    arena_bytes: int
    kernels: tuple[str, ...]
    weights: tuple[tuple[str, str], ...]
    entries: Mapping[str, Entry]
    signatures: tuple[tuple[Size, ...], ...] = ()


def read_program(manifest: Manifest) -> Program:
    """Read ``program.json`` and check that every word stays inside its table or block.

    Raises F502 otherwise. What lies behind a pointer cannot be checked: the compiler planned it.
    """
    path = manifest.path("program.json")
    try:
        return _from_document(json.loads(path.read_bytes()), manifest)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise malformed(path, f"program.json makes no sense: {error!r}") from error


def _from_document(document: dict[str, Any], manifest: Manifest) -> Program:
    if document["schema"] != 1:
        raise ValueError(f"schema {document['schema']!r} is not 1")
    kernels = tuple(str(k) for k in document["kernels"])
    weights = tuple((str(file), str(name)) for file, name in document["weights"])
    arena_bytes = int(document["arena_bytes"])
    limits = {ARENA: arena_bytes, WEIGHT: len(weights), STATE: manifest.state_bytes}
    entries = {}
    for name, record in document["entries"].items():
        graph = manifest.graph is not None
        entry = entries[name] = _entry(name, record, manifest.vocab_size, graph)
        for space, limit in limits.items():
            values = entry.value[entry.space == space]
            if values.size and values.max() >= limit:
                raise ValueError(f"entry {name} points beyond {chr(space)}:{limit}")
        if entry.kernel.size and not 0 <= entry.kernel.min() <= entry.kernel.max() < len(kernels):
            raise ValueError(f"entry {name} calls a kernel that is not listed")
        if graph:
            _check_ports(entry, arena_bytes)
        else:
            _check_ends(entry, arena_bytes, manifest.vocab_size)
    _check_arity(entries.values())
    signatures = tuple(tuple(sizes) for sizes in document.get("signatures", ()))
    if signatures:
        if len(signatures) != len(kernels):
            raise ValueError(f"there are {len(signatures)} signatures of {len(kernels)} kernels")
        for entry in entries.values():
            _check_signatures(entry, kernels, signatures, limits)
    if manifest.graph is not None:
        if set(entries) != {GRAPH}:
            raise ValueError("a graph has one entry, called graph")
    elif not {"decode", "prefill"} & set(entries):
        raise ValueError("there is neither a decode nor a prefill entry")
    return Program(arena_bytes, kernels, weights, entries, signatures)


def _entry(name: str, record: dict[str, Any], vocab_size: int, graph: bool) -> Entry:
    calls = [words for _, words in record["steps"]]
    flat = [word for words in calls for word in words]
    if not _WORDS.fullmatch(" ".join(flat)):
        bad = next(w for w in flat if not _WORDS.fullmatch(w) or not w)
        raise ValueError(f"entry {name} has an unknown argument word {bad!r}")
    count = np.array([len(words) for words in calls], np.int64)
    max_tokens = int(record["max_tokens"])
    rows, vocab = (1, 0) if graph else record["outputs"]["logits"]["shape"]
    if vocab != vocab_size or rows not in (1, max_tokens, "S"):
        raise ValueError(f"entry {name} gives logits of shape {[rows, vocab]}")
    for key, i in record["inputs"].items():
        if not graph and i["shape"] not in ([[max_tokens], ["S"]] if key == "tokens" else [[1]]):
            raise ValueError(f"entry {name} takes {key} of shape {i['shape']}")
    return Entry(
        name=name,
        max_tokens=max_tokens,
        every_row=rows != 1,
        inputs={} if graph else {k: int(i["offset"]) for k, i in record["inputs"].items()},
        logits=0 if graph else int(record["outputs"]["logits"]["offset"]),
        kernel=np.array([kernel for kernel, _ in record["steps"]], np.int64),
        first=np.cumsum(count) - count,
        count=count,
        space=np.frombuffer("".join(word[0] for word in flat).encode(), np.uint8),
        value=np.array([int(word[2:] or 0) for word in flat], np.int64),
        takes=_ports(record["inputs"]) if graph else (),
        gives=_ports(record["outputs"]) if graph else (),
    )


def _ports(records: Mapping[str, Any]) -> tuple[Port, ...]:
    return tuple(Port(name, str(r["dtype"]), tuple(r["shape"]), int(r["offset"]))
                 for name, r in records.items())


def _check_ports(entry: Entry, arena_bytes: int) -> None:
    if entry.max_tokens < 1:
        raise ValueError(f"entry {entry.name} has no size")
    for port in (*entry.takes, *entry.gives):
        shape = [value(size, entry.max_tokens) for size in port.shape]
        nbytes = math.prod(shape) * (1 if port.dtype == "bool" else 4)
        if port.dtype not in DTYPES or port.offset < 0 or port.offset % 4 or (
                port.offset + nbytes > arena_bytes):
            raise ValueError(f"{port.name} of entry {entry.name} lies outside the arena")


def _check_arity(entries: Iterable[Entry]) -> None:
    """A kernel takes as many words in one step as in every other, and never none."""
    arity: dict[int, int] = {}
    for entry in entries:
        for kernel, count in zip(entry.kernel.tolist(), entry.count.tolist(), strict=True):
            if not count or arity.setdefault(kernel, count) != count:
                raise ValueError(f"entry {entry.name} calls kernel {kernel} with {count} words")


def _check_signatures(entry: Entry, kernels: tuple[str, ...],
                      signatures: tuple[tuple[Size, ...], ...],
                      limits: Mapping[int, int]) -> None:  # fmt: skip
    """Each step has the words its kernel takes, and what they point to lies inside its block."""
    if not entry.kernel.size:
        return
    kinds, ends = {}, {}
    for index in np.unique(entry.kernel).tolist():
        sizes = signatures[index]
        plain = [0 if size in ("i", "t") else value(size, entry.max_tokens) for size in sizes]
        ends[index] = np.array(plain, np.int64)
        kinds[index] = "".join(size if size in ("i", "t") else "p" for size in sizes)
    called = entry.kernel.tolist()
    counts = np.array([len(kinds[index]) for index in called], np.int64)
    _refuse_step(entry, kernels, counts != entry.count, "is called with words too many or too few")
    given = entry.space.tobytes().translate(bytes.maketrans(b"aws", b"ppp"))
    taken = "".join(kinds[index] for index in called).encode()
    if given != taken:
        wrong = np.frombuffer(given, np.uint8) != np.frombuffer(taken, np.uint8)
        _refuse_word(entry, kernels, wrong, "is called with words of another kind")
    end = entry.value + np.concatenate([ends[index] for index in called])
    for space, name in ((ARENA, "arena"), (STATE, "state")):
        beyond = (entry.space == space) & (end > limits[space])
        _refuse_word(entry, kernels, beyond, f"reaches beyond the end of the {name}")


def _refuse_word(entry: Entry, kernels: tuple[str, ...], wrong: npt.NDArray[np.bool_],
                 what: str) -> None:  # fmt: skip
    if wrong.any():
        _refuse_step(entry, kernels, np.logical_or.reduceat(wrong, entry.first), what)


def _refuse_step(entry: Entry, kernels: tuple[str, ...], wrong: npt.NDArray[np.bool_],
                 what: str) -> None:  # fmt: skip
    if wrong.any():
        step = int(np.flatnonzero(wrong)[0])
        kernel = kernels[int(entry.kernel[step])]
        raise ValueError(f"step {step} of entry {entry.name}: {kernel} {what}")


def _check_ends(entry: Entry, arena_bytes: int, vocab_size: int) -> None:
    rows = entry.max_tokens if entry.every_row else 1
    spans = {"logits": (entry.logits, rows * vocab_size)}
    for key in ("tokens", "pos", "slot", "last"):
        if key in entry.inputs:
            spans[key] = (entry.inputs[key], entry.max_tokens if key == "tokens" else 1)
    for key, (offset, words) in spans.items():
        if offset < 0 or offset % 4 or offset + 4 * words > arena_bytes:
            raise ValueError(f"{key} of entry {entry.name} lies outside the arena")
    if not {"tokens", "pos"} <= set(entry.inputs) or entry.max_tokens < 1:
        raise ValueError(f"entry {entry.name} lacks an input")
