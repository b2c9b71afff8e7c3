"""What a cheaper artifact costs: its predictions on a text, held against a reference's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.model import Model
from firstlight.runtime.tokens import is_integer, token_array
from firstlight.runtime.trace import RETURN, Tracer, can_step

Array = NDArray[Any]
DEFAULT_TOKENS, DEFAULT_WINDOW = 8192, 512
DECISIONS = ("router_agreement", "index_recall", "stream_error")
LONGEST = 256
"""Characters of the longest token, such as a run of spaces, and more."""
TRACED_WINDOWS = 4
"""Windows whose decisions are looked at: running step by step takes several times as long."""


def read_ids(path: Path, vocab_size: int, encode: Callable[[str], Any],
             tokens: int) -> list[list[int]]:
    """Token sequences of a file: a text, or JSON with ``sequences``, lists of ids.

    Args:
        encode: turns a text into ids below `vocab_size`.
        tokens: how many are wanted; of a text, what cannot be among them is not encoded.

    Raises F709 for a file that is neither, or too short to predict anything, and F605 for an id
    outside the vocabulary.
    """
    try:
        if path.suffix == ".json":
            sequences = [list(ids) for ids in json.loads(path.read_text("utf-8"))["sequences"]]
            for wrong in (x for ids in sequences for x in ids if not is_integer(x)):
                raise ValueError(f"{wrong!r:.40} is no token id")
        else:
            with path.open(encoding="utf-8") as file:
                sequences = [encode(file.read(LONGEST * tokens))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_text(path, f"{type(error).__name__}: {error}") from error
    sequences = [token_array(ids, vocab_size).tolist() for ids in sequences if len(ids) > 1]
    if not sequences:
        raise _no_text(path, "no sequence has two tokens, so there is nothing to predict")
    return sequences


def windows(sequences: Sequence[Sequence[int]], size: int, most: int) -> Iterator[list[int]]:
    """Pieces of up to `size` tokens, `most` tokens in all; a rest of one token predicts nothing."""
    for ids in sequences:
        for at in range(0, len(ids), size):
            piece = list(ids[at : at + min(size, most)])
            if len(piece) > 1:
                most -= len(piece)
                yield piece
            if most < 2:
                return


@dataclass
class Quality:
    """Sums over the predicted tokens.

    kl          of the reference's distribution to the model's, nats, a token each
    nll         negative log-likelihood of the true next token: [reference, model], nats
    layers      by layer: agreement of chosen experts and of selected entries (shares of what the
                reference chose), and the error of the residual streams
    """

    kl: list[Array] = field(default_factory=list)
    nll: list[Array] = field(default_factory=list)
    top1: list[Array] = field(default_factory=list)
    layers: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For printing: means, and the 99th percentile of the divergence."""
        kl, (reference, model) = np.concatenate(self.kl), np.concatenate(self.nll, axis=1)
        return {
            "tokens": int(kl.size),
            "cross_entropy": float(model.mean()),
            "reference_cross_entropy": float(reference.mean()),
            "cross_entropy_difference": float((model - reference).mean()),
            "perplexity": float(np.exp(model.mean())),
            "perplexity_ratio": float(np.exp((model - reference).mean())),
            "kl_mean": float(kl.mean()),
            "kl_p99": float(np.quantile(kl, 0.99)),
            "top1_agreement": float(np.concatenate(self.top1).mean()),
            "layers": {layer: {name: float(np.mean(row[name])) if name in row else None
                               for name in DECISIONS} for layer, row in self.layers.items()},
        }


def comparable(model: Model, reference: Model) -> None:
    """Raises F710 for two models that have different vocabularies, or are not of one checkpoint."""
    why = ""
    if model.vocab_size != reference.vocab_size:
        why = f"one has a vocabulary of {model.vocab_size}, the other {reference.vocab_size}"
    elif _origin(model) != _origin(reference):
        why = "they were compiled from different checkpoints"
    if why:
        raise FirstlightError(
            "F710", "the two artifacts cannot be held against each other",
            where=f"--against {reference.manifest.directory}", why=why,
            try_="two artifacts of one checkpoint")


def _origin(model: Model) -> tuple[Any, ...]:
    provenance = model.manifest.document.get("provenance", {})
    return provenance.get("config"), provenance.get("shards")


def measure(model: Model, reference: Model, sequences: Sequence[Sequence[int]],
            window: int = DEFAULT_WINDOW, tokens: int = DEFAULT_TOKENS,
            decode: bool = False) -> Quality:
    """Feed both models the same tokens, each window in a session of its own.

    Args:
        window: most tokens of a session; both contexts bound it.
        tokens: most tokens in all.
        decode: one token a call, by the kernels that generate; else in chunks.

    The two are `comparable`. Artifacts that run whole calls only (ONNX) have no `layers`.
    """
    quality, traced = Quality(), TRACED_WINDOWS
    if traced and not (_traceable(model) and _traceable(reference)):
        traced = 0
    size = min(window, model.manifest.context, reference.manifest.context)
    for number, ids in enumerate(windows(sequences, size, tokens)):
        both = zip(_logits(model, ids, decode), _logits(reference, ids, decode), strict=True)
        for (at, ours), (_, theirs) in both:
            known = ids[at + 1 : at + 1 + len(ours)]
            _add(quality, ours[: len(known)], theirs[: len(known)], known)
        if number < traced:
            _trace(quality, model, reference, ids, decode)
    return quality


def _logits(model: Model, ids: Sequence[int], decode: bool) -> Iterator[tuple[int, Array]]:
    session = model.session()
    step = 1 if decode else 64        # all logits of a chunk are float32 [tokens, vocabulary]
    for at in range(0, len(ids), step):
        if decode and at:
            yield at, session.decode(ids[at])[None]
        else:
            yield at, session.prefill(ids[at : at + step], all_logits=True)


def _add(quality: Quality, ours: Array, theirs: Array, known: Sequence[int]) -> None:
    if not len(known):
        return
    p, q = _log_softmax(theirs), _log_softmax(ours)
    rows = np.arange(len(known))
    quality.kl.append((np.exp(p) * (p - q)).sum(-1))
    quality.nll.append(-np.stack([p[rows, known], q[rows, known]]))
    quality.top1.append(theirs.argmax(-1) == ours.argmax(-1))


def _log_softmax(logits: Array) -> Array:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _traceable(model: Model) -> bool:
    with model.session() as session:
        return can_step(session)


def _trace(quality: Quality, model: Model, reference: Model, ids: Sequence[int],
           decode: bool) -> None:
    """Add what the layers decided and handed on, for the first tokens of a window."""
    count = min(len(ids), model.manifest.chunk, reference.manifest.chunk)
    theirs, ours = (_decisions(m, ids[:count], decode) for m in (reference, model))
    for (layer, name), wanted in theirs.items():
        if (got := ours.get((layer, name))) is None:
            continue
        row = quality.layers.setdefault(layer, {})
        if name == "stream_error":
            got, wanted = got.astype(np.float64), wanted.astype(np.float64)
            value = float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30))
        else:
            value = _overlap(wanted, got)
        row.setdefault(name, []).append(value)


def _decisions(model: Model, ids: Sequence[int],
               decode: bool) -> dict[tuple[str, str], Array]:
    """(layer, what) -> chosen experts or entries [S, k], or the streams behind the layer [S, ...].

    With `decode` as the kernels of single tokens decide.
    """
    tracer, session = Tracer(model), model.session()
    calls = [[token] for token in ids] if decode else [ids]
    found: dict[tuple[str, str], list[Array]] = {}
    for number, part in enumerate(calls):
        for row, values in tracer.feed(session, "decode" if decode else "prefill", part):
            parts = row.path.split(".")
            if parts[0] != "layers" or len(parts) < 2:
                continue
            layer = ".".join(parts[:2])
            if row.op in ("route", "index_select"):
                name = "router_agreement" if row.op == "route" else "index_recall"
            elif row.op == RETURN:
                name = "stream_error"
            else:
                continue
            chunks = found.setdefault((layer, name), [])
            # the last function of a layer stays
            chunks[number:] = [values[0].reshape(len(part), -1)]
    return {key: np.concatenate(chunks) for key, chunks in found.items()}


def _overlap(wanted: Array, got: Array) -> float:
    """Share of the chosen numbers (negative ones choose nothing) that were chosen again."""
    shares = [len(a & b) / len(a) for a, b in zip(map(_chosen, wanted), map(_chosen, got),
                                                  strict=True) if a]
    return float(np.mean(shares)) if shares else 1.0


def _chosen(row: Array) -> set[int]:
    return {int(i) for i in row if i >= 0}


def _no_text(path: Path, why: str) -> FirstlightError:
    return FirstlightError("F709", "there is no text to measure on", where=str(path), why=why,
                           try_="a UTF-8 text, or a .json file {\"sequences\": [[1, 2, ...]]}")
