"""Tracing: run an entry step by step and look at what each step has computed.

A slow way to feed a session, for finding the step that is wrong. `debug.json` says what the steps
are; an artifact without it runs, and cannot be traced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from firstlight.runtime.engine import Context
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest, StateTensor, malformed
from firstlight.runtime.model import Model
from firstlight.runtime.program import ARENA, STATE, Entry
from firstlight.runtime.session import Session
from firstlight.runtime.sizes import value
from firstlight.runtime.tokens import token_array

RETURN = "return"
"""The op of a row that is no step but the end of a function."""

_DTYPES = {"f32": np.dtype("<f4"), "i32": np.dtype("<i4"), "bool": np.dtype("?")}
Array = npt.NDArray[Any]


class SteppingContext(Context, Protocol):
    """What a launcher's contexts offer where its artifacts can be traced."""

    def steps(self, entry: str, tokens: npt.NDArray[np.int32]) -> Iterator[int]:
        """As ``run``, one step at a time: the number of each step after it ran.

        The position moves after the last.
        """

    def arena(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """The bytes of a part of the arena as the steps so far have left it."""


@dataclass(frozen=True)
class Result:
    """Where one result lies: in the arena with dtype and shape, or as a state tensor."""

    word: str
    dtype: str = ""
    shape: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Row:
    """A step, or the end of a function (op ``return``), in the order in which they happen.

    ``inputs`` are the results a step reads, as (row, result) numbers: those of this call, without
    weights and what an earlier call left in the state.
    """

    op: str
    path: str
    results: tuple[Result, ...]
    inputs: tuple[tuple[int, int], ...] = ()


class Tracer:
    """Feeds sessions of one model step by step.

    Raises F613 if the artifact has no ``debug.json`` or its launcher runs whole entries only.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._states = {f"s:{t.offset}": t for t in model.manifest.state}
        document = _read(model.manifest)
        try:
            self.rows: Mapping[str, tuple[Row, ...]] = {
                name: _rows(rows, document["types"], model.program.entries[name])
                for name, rows in document["entries"].items()
            }
        except (KeyError, TypeError, ValueError, IndexError) as error:
            where = model.manifest.path("debug.json")
            raise malformed(where, f"debug.json makes no sense: {error!r}") from error

    def feed(self, session: Session, entry: str, ids: Sequence[int]
             ) -> Iterator[tuple[Row, tuple[Array, ...]]]:  # fmt: skip
        """Feed ``ids`` through an entry; every row with copies of its results, as they come.

        Results of the arena have the shapes of the IR, [1, S, ...]; a state is [rows, width], the
        rows that the sequence may have written so far, or in a codec their bytes. A trace that is
        not read to its end leaves the session broken (F610).
        """
        tokens = token_array(ids, self.model.vocab_size)
        with session._exclusive():
            context = stepping(session)
            session._broken = "a trace was not read to its end"
            yield from self._feed(context, entry, tokens)
            session._broken = None

    def state(self, result: Result) -> StateTensor | None:
        """The state tensor that a result is; None for one in the arena."""
        return self._states.get(result.word)

    def _feed(self, context: SteppingContext, entry: str, tokens: npt.NDArray[np.int32]
              ) -> Iterator[tuple[Row, tuple[Array, ...]]]:  # fmt: skip
        count, end = len(tokens), context.position + len(tokens)
        rows = iter(self.rows[entry])
        row = next(rows, None)
        for _ in context.steps(entry, tokens):
            first = True
            while row is not None and (first or row.op == RETURN):
                values = (self._value(context, result, count, end) for result in row.results)
                yield row, tuple(values)
                row, first = next(rows, None), False

    def _value(self, context: SteppingContext, result: Result, count: int, end: int) -> Array:
        state = self.state(result)
        if state is not None:
            rows = state.used_rows(end)
            raw = context.read_state(state.offset, state.row_bytes * rows)
            if state.codec == "f32":
                return raw.view(np.float32).reshape(rows, state.width).copy()
            return raw.reshape(rows, state.row_bytes).copy()
        dtype, shape = _DTYPES[result.dtype], tuple(value(d, count) for d in result.shape)
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        values = context.arena(int(result.word[2:]), nbytes).view(dtype)
        return values.reshape(shape).copy()


def _read(manifest: Manifest) -> Any:
    if not any(file.name == "debug.json" for file in manifest.files):
        raise _impossible(manifest, "it has no debug.json, which says what its steps are")
    try:
        return json.loads(manifest.path("debug.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise malformed(manifest.path("debug.json"), f"it cannot be read: {error!r}") from error


def _rows(records: Any, types: Any, entry: Entry) -> tuple[Row, ...]:
    rows: list[Row] = []
    writer: dict[str, tuple[int, int]] = {}
    step = 0
    for op, path, places in records:
        results = tuple(Result(word, *(_type(types[t[0]]) if t else ())) for word, *t in places)
        inputs: tuple[tuple[int, int], ...] = ()
        if op != RETURN:
            words = _words(entry, step)
            new = sum(r.word.startswith("a:") for r in results)     # the last ones
            inputs = tuple(writer[w] for w in words[:len(words) - new] if w in writer)
            writer |= {r.word: (len(rows), i) for i, r in enumerate(results)}
            step += 1
        rows.append(Row(str(op), str(path), results, inputs))
    if step != entry.kernel.size:
        raise ValueError(f"it tells of {step} steps, entry {entry.name} has {entry.kernel.size}")
    return tuple(rows)


def _type(record: Any) -> tuple[str, tuple[Any, ...]]:
    dtype, shape = record
    _DTYPES[dtype]
    return dtype, tuple(shape)


def _words(entry: Entry, step: int) -> list[str]:
    """The words of a step that point into the arena or the state."""
    part = slice(int(entry.first[step]), int(entry.first[step] + entry.count[step]))
    return [f"{chr(space)}:{value}"
            for space, value in zip(entry.space[part], entry.value[part], strict=True)
            if space in (ARENA, STATE)]  # fmt: skip


def can_step(session: Session) -> bool:
    """Whether the session's launcher can run single steps; some run whole entries only."""
    return hasattr(session._usable_context(), "steps")


def stepping(session: Session) -> SteppingContext:
    """The session's context, for single steps. Raises F613 unless it `can_step`."""
    if not can_step(session):
        raise _impossible(session.model.manifest, "its launcher runs whole entries only",
                          "firstlight compile CHECKPOINT --target cpu -o DIR    and that artifact")
    return cast(SteppingContext, session._usable_context())


def _impossible(manifest: Manifest, why: str,
                hint: str = "firstlight compile CHECKPOINT -o DIR    again (targets that run whole "
                            "graphs keep no debug.json)",
                ) -> FirstlightError:
    return FirstlightError("F613", "this artifact cannot be traced", where=str(manifest.directory),
                           why=why, try_=hint)
