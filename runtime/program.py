"""``program.json``: the flat lists of kernel calls that the compiler planned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.runtime.manifest import Manifest, malformed

ARENA, WEIGHT, STATE, INTEGER, TOKENS = (ord(c) for c in "awsit")
"""The spaces an argument word may point into; TOKENS is the number of tokens of the call."""

_WORDS = re.compile(r"(?:(?:[aws]:\d{1,18}|i:-?\d{1,18}|t)(?: |$))*")


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


@dataclass(frozen=True)
class Program:
    """All entries of an artifact and the tables their words refer to."""

    arena_bytes: int
    kernels: tuple[str, ...]
    weights: tuple[tuple[str, str], ...]
    entries: Mapping[str, Entry]


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
        entry = entries[name] = _entry(name, record, manifest.vocab_size)
        for space, limit in limits.items():
            values = entry.value[entry.space == space]
            if values.size and values.max() >= limit:
                raise ValueError(f"entry {name} points beyond {chr(space)}:{limit}")
        if entry.kernel.size and not 0 <= entry.kernel.min() <= entry.kernel.max() < len(kernels):
            raise ValueError(f"entry {name} calls a kernel that is not listed")
        _check_ends(entry, arena_bytes, manifest.vocab_size)
    _check_arity(entries.values())
    if not {"decode", "prefill"} & set(entries):
        raise ValueError("there is neither a decode nor a prefill entry")
    return Program(arena_bytes, kernels, weights, entries)


def _entry(name: str, record: dict[str, Any], vocab_size: int) -> Entry:
    calls = [words for _, words in record["steps"]]
    flat = [word for words in calls for word in words]
    if not _WORDS.fullmatch(" ".join(flat)):
        bad = next(w for w in flat if not _WORDS.fullmatch(w) or not w)
        raise ValueError(f"entry {name} has an unknown argument word {bad!r}")
    count = np.array([len(words) for words in calls], np.int64)
    max_tokens, (rows, vocab) = int(record["max_tokens"]), record["outputs"]["logits"]["shape"]
    if vocab != vocab_size or rows not in (1, max_tokens, "S"):
        raise ValueError(f"entry {name} gives logits of shape {[rows, vocab]}")
    for key, i in record["inputs"].items():
        if i["shape"] not in ([[max_tokens], ["S"]] if key == "tokens" else [[1]]):
            raise ValueError(f"entry {name} takes {key} of shape {i['shape']}")
    return Entry(
        name=name,
        max_tokens=max_tokens,
        every_row=rows != 1,
        inputs={key: int(i["offset"]) for key, i in record["inputs"].items()},
        logits=int(record["outputs"]["logits"]["offset"]),
        kernel=np.array([kernel for kernel, _ in record["steps"]], np.int64),
        first=np.cumsum(count) - count,
        count=count,
        space=np.frombuffer("".join(word[0] for word in flat).encode(), np.uint8),
        value=np.array([int(word[2:] or 0) for word in flat], np.int64),
    )


def _check_arity(entries: Iterable[Entry]) -> None:
    """A kernel takes as many words in one step as in every other, and never none."""
    arity: dict[int, int] = {}
    for entry in entries:
        for kernel, count in zip(entry.kernel.tolist(), entry.count.tolist(), strict=True):
            if not count or arity.setdefault(kernel, count) != count:
                raise ValueError(f"entry {entry.name} calls kernel {kernel} with {count} words")


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
