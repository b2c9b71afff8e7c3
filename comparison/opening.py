"""From the words of the command line to sides and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from firstlight.comparison.artifact import ArtifactSide
from firstlight.comparison.side import Side
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.text import Tokenizer
from firstlight.runtime.tokens import token_array

INTERPRETER, TRANSFORMERS = "interpreter", "transformers"
DEFAULT_TOKENS = 48


@contextmanager
def open_sides(words: Sequence[str], checkpoint: Path | None = None,
               threads: int | None = None) -> Iterator[tuple[Side, ...]]:
    """Open the sides: each the folder of an artifact, `interpreter` or `transformers`.

    A checkpoint folder stands for its interpreter, and serves the other side. Raises F704 for
    another folder, F707 if a side needs a checkpoint and none is given.
    """
    kinds = [_kind(word) for word in words]
    for word, kind in zip(words, kinds, strict=True):
        if kind == "checkpoint" and checkpoint is None:
            checkpoint = Path(word)
    with ExitStack() as stack:
        sides: dict[int, Side] = {}
        manifest: Mapping[str, Any] | None = None
        for i in sorted(range(len(words)), key=lambda i: kinds[i] != "artifact"):
            folder = Path(words[i])
            if kinds[i] == "artifact":
                artifact = ArtifactSide(folder, threads)
                manifest = manifest or artifact.document
                sides[i] = artifact
            else:
                place = folder if kinds[i] == "checkpoint" else checkpoint
                sides[i] = _from_checkpoint(kinds[i], place, manifest)
            stack.callback(sides[i].close)
        yield tuple(sides[i] for i in range(len(words)))


def token_ids(sides: Sequence[Side], prompt: str | None, ids: Sequence[int] | None) -> list[int]:
    """The tokens to feed: the given ones, those of a text, or some that are always the same.

    Raises F604 to F607 for tokens that the sides cannot take, F630 without a tokenizer.
    """
    limit = min([s.context for s in sides if s.context is not None], default=None)
    vocab = sides[0].vocab_size
    if prompt is not None:
        path = next((s.tokenizer for s in sides if s.tokenizer.is_file()), sides[0].tokenizer)
        ids = Tokenizer(path).encode(prompt)
    elif ids is None:
        ids = [(31 * i * i + 17 * i + 1) % vocab
               for i in range(min(DEFAULT_TOKENS, limit or DEFAULT_TOKENS))]
    tokens = [int(t) for t in token_array(list(ids), vocab)]
    if not tokens or (limit is not None and len(tokens) > limit):
        raise FirstlightError(
            "F607" if tokens else "F606",
            f"{len(tokens)} tokens cannot be compared",
            where="--prompt or --tokens",
            why=f"a side takes 1 to {limit} tokens" if limit else "there must be at least one",
            try_="another prompt, or an artifact with a larger --context",
        )
    return tokens


def _kind(word: str) -> str:
    if word in (INTERPRETER, TRANSFORMERS):
        return word
    for file, kind in (("manifest.json", "artifact"), ("config.json", "checkpoint")):
        if (Path(word) / file).is_file():
            return kind
    raise FirstlightError(
        "F704",
        "this is no side of a comparison",
        where=word,
        why="it is neither the folder of an artifact or checkpoint, nor one of the words"
        f" {INTERPRETER} and {TRANSFORMERS}",
        try_="firstlight compare DIR interpreter --checkpoint CHECKPOINT",
    )


def _from_checkpoint(kind: str, path: Path | None, manifest: Mapping[str, Any] | None) -> Side:
    if path is None:
        raise FirstlightError(
            "F707",
            f"the {kind} needs a checkpoint",
            where="firstlight compare",
            why="an artifact does not say where its checkpoint lies",
            try_="--checkpoint CHECKPOINT",
        )
    # Here, because two artifacts are compared without the compiler's packages.
    from firstlight.frontend.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    if kind == TRANSFORMERS:
        from firstlight.comparison.reference import TransformersSide

        return TransformersSide(checkpoint)
    from firstlight.comparison.interpreter import InterpreterSide

    return InterpreterSide(checkpoint, manifest)
