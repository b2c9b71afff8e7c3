"""Text to tokens and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from firstlight.runtime.errors import FirstlightError

_REPLACEMENT = "\ufffd"
"""What a decoder prints for bytes that are no character yet."""


class Tokenizer:
    """The checkpoint's own ``tokenizer.json``."""

    def __init__(self, path: Path) -> None:
        """Raises F630 if the file is missing or damaged."""
        try:
            import tokenizers

            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise FirstlightError(
                "F630",
                "text cannot be turned into tokens",
                where=str(path),
                why=f"the tokenizer cannot be loaded: {error}",
                try_="pass token ids instead of text, or compile a checkpoint with tokenizer.json",
            ) from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with what the tokenizer puts around it (such as <bos>).

        Raises F631 for what is no text, such as half of a surrogate pair.
        """
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except Exception as error:
            raise _untranslatable(f"a {type(text).__name__} cannot be encoded", error) from error

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids. Raises F631 for what are no ids."""
        try:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))
        except Exception as error:
            raise _untranslatable("these token ids cannot be decoded", error) from error

    def stream(self) -> TextStream:
        """A decoder for tokens that arrive one by one."""
        return TextStream(self)


def _untranslatable(what: str, error: Exception) -> FirstlightError:
    return FirstlightError(
        "F631",
        what,
        where="the tokenizer",
        why=" ".join(str(error).split()) or type(error).__name__,
        try_="text as a str of whole characters, ids as whole numbers from 0",
    )


class TextStream:
    """Turns tokens that arrive one by one into pieces of text, whole characters only.

    >>> stream = model.tokenizer.stream()                                  # doctest: +SKIP
    >>> for token in session.generate(ids, 64):                            # doctest: +SKIP
    ...     print(stream.push(token), end="", flush=True)
    >>> print(stream.finish())                                             # doctest: +SKIP
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the piece last given out, then what waits for more
        self._given = 0

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        # The piece stays as left context: how a token is written can depend on the one before.
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        return text

    def finish(self) -> str:
        """What is left when no token follows: an incomplete character, or nothing."""
        text = self._new_text()
        self._ids, self._given = [], 0
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._ids[: self._given])
        return self._tokenizer.decode(self._ids)[len(before) :]


class StopCondition:
    """Says when to stop: after certain token ids, or once certain strings were written."""

    def __init__(self, ids: frozenset[int], strings: Sequence[str], stream: TextStream | None):
        self._ids = ids
        self._strings = strings
        self._stream = stream
        self._keep = max(map(len, strings), default=1) - 1
        self._tail = ""

    def __call__(self, token: int) -> bool:
        """Take note of a token; whether it is the last."""
        if token in self._ids:
            return True
        if self._stream is None or not self._strings:
            return False
        text = self._tail + self._stream.push(token)
        self._tail = text[-self._keep :] if self._keep else ""
        return any(s in text for s in self._strings)
