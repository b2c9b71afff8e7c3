"""Two ways to run a checkpoint, and one comparison that every way has to pass.

A backend opens a checkpoint folder and gives a model whose sessions have `prefill` and `decode`.
`compare` drives such a model by every route there is to the same logits (whole prefill, chunkings,
token by token) and measures each route against a reference and against the whole prefill.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Session(Protocol):
    """One sequence. Logits are float32; ids are below the vocabulary size."""

    def prefill(self, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """Continue the sequence; `[vocab]` of the last token, or `[len, vocab]`."""

    def decode(self, token: int) -> np.ndarray:
        """Continue by one token; `[vocab]`."""


class Model(Protocol):
    """Weights ready to run."""

    def session(self) -> Session:
        """A fresh sequence at position 0."""


class Backend(Protocol):
    """Opens checkpoint folders."""

    name: str

    def open(self, folder: Path, context: int, chunk: int) -> Model:
        """A model that takes `context` tokens, in pieces of at most `chunk` if it has pieces."""


@dataclass(frozen=True)
class InterpreterBackend:
    """The traced primitives, run by the numpy interpreter."""

    name: str = "interpreter"

    def open(self, folder: Path, context: int, chunk: int) -> Model:
        """See `Backend.open`; the interpreter runs any number of tokens at once."""
        from firstlight.frontend.interpret import InterpreterModel

        return InterpreterModel(folder, context=context)


@dataclass(frozen=True)
class ArtifactBackend:
    """Compile to `work`, then load with the runtime. `options` go to CompileOptions."""

    work: Path
    options: dict[str, Any] = field(default_factory=dict)
    name: str = "artifact"

    def open(self, folder: Path, context: int, chunk: int) -> Model:
        """See `Backend.open`."""
        from firstlight.compiler import CompileOptions, compile_checkpoint
        from firstlight.runtime import load

        out = Path(tempfile.mkdtemp(prefix="artifact-", dir=self.work)) / "model"
        options = CompileOptions(context=context, chunk=chunk, **self.options)
        compile_checkpoint(folder, out, options)
        return load(out, threads=1)


@dataclass
class Differences:
    """Largest absolute logit differences, and the route that gave each."""

    reference: float = 0.0
    itself: float = 0.0
    reference_route: str = ""
    itself_route: str = ""

    def note(self, got: np.ndarray, want: np.ndarray, own: np.ndarray, route: str) -> None:
        """Compare rows `[n, vocab]` of one route with the reference and the whole prefill."""
        assert got.shape == want.shape, f"{route}: shape {got.shape}, expected {want.shape}"
        assert got.dtype == np.float32, f"{route}: dtype {got.dtype}"
        assert np.isfinite(got).all(), f"{route}: not finite"
        for which, other in (("reference", want), ("itself", own)):
            gap = np.abs(got - other)
            if gap.max() >= getattr(self, which):
                setattr(self, which, float(gap.max()))
                row = int(gap.max(-1).argmax())
                setattr(self, f"{which}_route", f"{route}, row {row} of {len(got)}")


def prompt_lengths(config: Mapping[str, Any], total: int) -> list[int]:
    """Lengths below `total` around every boundary: 1, ratio +- 1, window +- 1, several blocks."""
    ratios = {ratio for ratio in config["compress_ratios"] if ratio}
    near = {e + side for e in ratios | {1, config["sliding_window"]} for side in (-1, 0, 1)}
    return sorted(x for x in near | {3 * r + 1 for r in ratios} if 1 <= x < total)


def chunk_sizes(config: Mapping[str, Any]) -> list[int]:
    """Chunk sizes for a prefill: the ratios, the window, one more than each, and odd ones."""
    edges = {config["sliding_window"], *config["compress_ratios"]} - {0}
    return sorted({3, 32} | {edge + side for edge in edges for side in (0, 1)})


def chunkings(length: int, sizes: Sequence[int], seed: int) -> Iterator[tuple[int, ...]]:
    """Ways to cut `length` tokens: equal pieces of each size, one long piece, random pieces."""
    for size in sorted({s for s in sizes if 1 < s < length}):
        whole, rest = divmod(length, size)
        yield (size,) * whole + ((rest,) if rest else ())
    if length > 1:
        yield (1, length - 1)
        yield (length - 1, 1)
        r, pieces = random.Random(seed), []
        while sum(pieces) < length:
            pieces.append(min(r.choice((1, 2, 3, 5, 11, 29)), length - sum(pieces)))
        yield tuple(pieces)


def compare(
    model: Model, ids: Sequence[int], want: np.ndarray, config: Mapping[str, Any]
) -> Differences:
    """Every route to the logits of `ids` against `want` [len(ids), vocab].

    Whole prefill; a prefill of each boundary length, continued by two decodes; everything in
    chunks of each size, every third chunk asked for its last row only; token by token.
    """
    seen, total = Differences(), len(ids)
    own = model.session().prefill(ids, all_logits=True)
    seen.note(own, want, own, "whole prefill")
    for length in prompt_lengths(config, total):
        session = model.session()
        rows = session.prefill(ids[:length], all_logits=True)
        seen.note(rows, want[:length], own[:length], f"prefill of {length}")
        for t in range(length, min(length + 2, total)):
            row = session.decode(ids[t])[None]
            seen.note(row, want[t : t + 1], own[t : t + 1], f"prefill of {length}, decode at {t}")
    for pieces in chunkings(total, chunk_sizes(config), seed=total):
        session, at = model.session(), 0
        for i, piece in enumerate(pieces):
            end, every = at + piece, i % 3 != 2
            rows = session.prefill(ids[at:end], all_logits=every)
            first = at if every else end - 1
            route = f"chunks {pieces[:3]}.., piece {i} at {at}"
            rows = rows.reshape(-1, own.shape[1])
            seen.note(rows, want[first:end], own[first:end], route)
            at = end
    session = model.session()
    rows = [session.prefill(ids[:1])] + [session.decode(token) for token in ids[1:]]
    seen.note(np.stack(rows), want, own, "token by token")
    return seen
