"""A session: the state of one sequence, fed token by token or in chunks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from firstlight.runtime.engine import Context
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.paths import checked_path
from firstlight.runtime.sampling import Sampler, Sampling
from firstlight.runtime.snapshot import copy_state, write_snapshot
from firstlight.runtime.text import StopCondition
from firstlight.runtime.tokens import is_integer, one_token, token_array

if TYPE_CHECKING:
    from firstlight.runtime.model import Model

Tokens = Sequence[int] | npt.NDArray[np.integer]
Stop = str | int | Sequence[str | int]


class Session:
    """All state of one sequence; made by ``Model.session``, ``Model.restore`` or ``fork``.

    A session serves one thread at a time, different sessions may run in different threads. After
    an error or Ctrl+C it stands where ``position`` says and may go on; only after a kernel failed
    (F611) it refuses to.
    """

    def __init__(self, model: Model, context: Context) -> None:
        self.model = model
        self._context: Context | None = context
        self._lock = threading.Lock()
        self._broken: str | None = None

    @property
    def position(self) -> int:
        """Number of tokens fed so far. Raises F601 if the session is closed."""
        return self._open_context().position

    def prefill(self, ids: Tokens, all_logits: bool = False) -> npt.NDArray[np.float32]:
        """Feed several tokens; call it again to continue the sequence.

        Args:
            ids: token ids, a list or integer array [n], n >= 1.
            all_logits: give the logits after every token instead of only after the last.

        Returns float32 [vocab], or [n, vocab]; the array is the caller's own. Raises F604 or F605
        for bad ids, F606 for no ids, F607 if they do not fit the context (nothing is fed then).
        """
        tokens = self._checked(ids)
        with self._exclusive():
            context = self._usable_context()
            self._require_room(context, len(tokens))
            return self._feed(context, tokens, all_logits)

    def decode(self, token: int) -> npt.NDArray[np.float32]:
        """Feed one token and return the logits for the next, float32 [vocab], the caller's own.

        Raises F608 before the first prefill, otherwise as ``prefill``.
        """
        tokens = one_token(token, self.model.vocab_size)
        with self._exclusive():
            context = self._usable_context()
            if context.position == 0:
                raise FirstlightError(
                    "F608",
                    "decode needs a sequence to continue",
                    where="this session, at position 0",
                    why="nothing was prefilled yet",
                    try_="session.prefill(ids) first; it takes a single token, too",
                )
            self._require_room(context, 1)
            return self._feed(context, tokens, False)

    def generate(
        self,
        ids: Tokens,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Stop | None = None,
        ignore_eos: bool = False,
    ) -> Iterator[int]:
        """Feed ``ids`` and yield up to ``max_new_tokens`` tokens, each an int.

        The last token is one of the model's EOS ids (unless ``ignore_eos``), one of the ids in
        ``stop``, or the one that completes a string in ``stop``. A token is fed when the next one
        is asked for, so the last one yielded is never fed: begin the next call with it to
        continue. Sampling as in ``sampling.Sampling``. Arguments are checked at the call; F607
        comes when the context is full.
        """
        tokens = self._checked(ids)
        if not is_integer(max_new_tokens) or max_new_tokens < 0:
            raise _refused("max_new_tokens", max_new_tokens, "a whole number >= 0")
        sampler = Sampler(Sampling(temperature, top_k, top_p, seed))
        stopped = self._stop_condition(stop, ignore_eos)
        self._require_room(self._open_context(), len(tokens))
        return self._generate(tokens, max_new_tokens, sampler, stopped)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to exactly this path, whole or not at all.

        A regular file there is replaced, anything else refused. Raises F640.
        """
        with self._exclusive():
            context = self._usable_context()
            file = checked_path(path, "F640", "the session to save")
            write_snapshot(file, self.model.manifest, context)

    def fork(self) -> Session:
        """A second session that continues from here on its own."""
        with self._exclusive():
            context = self._usable_context()
            twin = self.model.session()
            copy_state(self.model.manifest, context, twin._open_context())
            return twin

    def close(self) -> None:
        """Give the memory back; a closed session refuses everything but ``close``."""
        if self._lock.locked():
            raise _busy("close")
        with self._lock:
            self._context = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed(
        self, context: Context, tokens: npt.NDArray[np.int32], all_logits: bool
    ) -> npt.NDArray[np.float32]:
        entries = self.model.program.entries
        logits = _room_for_logits(len(tokens) if all_logits else 1, self.model.vocab_size)
        wanted = "score" if all_logits else "prefill"
        many = wanted if wanted in entries else "decode"
        step = entries[many].max_tokens
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            entry = "decode" if len(part) == 1 and "decode" in entries else many
            try:
                context.run(
                    entry, part, logits[start : start + len(part)] if all_logits else logits
                )
            except FirstlightError as error:
                self._broken = error.what
                raise
        return logits if all_logits else logits[0]

    def _generate(
        self,
        tokens: npt.NDArray[np.int32],
        max_new_tokens: int,
        sampler: Sampler,
        stopped: StopCondition,
    ) -> Iterator[int]:
        logits = self.prefill(tokens)
        for left in range(max_new_tokens, 0, -1):
            token, position = sampler(logits), self.position
            yield token
            if stopped(token) or left == 1:
                return
            if self.position != position:
                raise FirstlightError(
                    "F609",
                    "the sequence moved while it was being generated",
                    where=f"position {self.position}, expected {position}",
                    why="the session was fed by another call between two tokens",
                    try_="session.fork() gives a second session for that",
                )
            logits = self.decode(token)

    def _stop_condition(self, stop: Stop | None, ignore_eos: bool) -> StopCondition:
        many = isinstance(stop, Iterable) and not isinstance(stop, str)
        given = list(cast(Iterable[object], stop)) if many else [] if stop is None else [stop]
        strings = [s for s in given if isinstance(s, str)]
        ids = [int(cast(int, s)) for s in given if is_integer(s)]
        if len(strings) + len(ids) != len(given) or not all(strings):
            raise _refused("stop", stop, "non-empty strings and token ids, one or a list of them")
        token_array(ids, self.model.vocab_size)
        if not ignore_eos:
            ids += self.model.eos_token_ids
        stream = self.model.tokenizer.stream() if strings else None
        return StopCondition(frozenset(ids), strings, stream)

    def _checked(self, ids: Tokens) -> npt.NDArray[np.int32]:
        tokens = token_array(ids, self.model.vocab_size)
        if not tokens.size:
            raise FirstlightError(
                "F606",
                "there are no tokens to feed",
                where="an empty list of token ids",
                why="logits follow a token: an empty prompt has none",
                try_="begin with the model's BOS token"
                + (f": [{self.model.bos_token_id}]" if self.model.bos_token_id is not None else ""),
            )
        return tokens

    def _require_room(self, context: Context, n: int) -> None:
        limit = self.model.context
        if context.position + n > limit:
            raise FirstlightError(
                "F607",
                f"the context of {limit} tokens is full",
                where=f"position {context.position}, {n} more asked for",
                why=f"this artifact was compiled for sequences of up to {limit} tokens",
                try_=f"firstlight compile CHECKPOINT --context {2 * limit}    or a new session",
            )

    def _open_context(self) -> Context:
        if self._context is None:
            raise FirstlightError(
                "F601",
                "this session is closed",
                where="a call to a closed session",
                why="session.close() or model.close() was called",
                try_="model.session() gives a new one",
            )
        return self._context

    def _usable_context(self) -> Context:
        context = self._open_context()
        if self._broken is not None:
            raise FirstlightError(
                "F610",
                "this session is broken",
                where=f"position {context.position}",
                why=f"an earlier call failed in the middle: {self._broken}",
                try_="model.session() gives a new one, model.restore(path) a saved one",
            )
        return context

    def _exclusive(self) -> threading.Lock:
        """The lock to hold during one call, unless another call holds it.

        The caller's ``with`` takes it, because Ctrl+C cannot come between a lock's own
        ``__enter__`` and the duty to release it. Of two threads that both get here, one waits.
        """
        if self._lock.locked():
            raise _busy("use")
        return self._lock


def _room_for_logits(rows: int, vocab_size: int) -> npt.NDArray[np.float32]:
    try:
        return np.empty((rows, vocab_size), np.float32)
    except MemoryError as error:
        raise FirstlightError(
            "F612",
            f"there is no memory for logits of {rows} tokens",
            where=f"{rows} x {vocab_size} float32, {rows * vocab_size * 4} bytes",
            why="all_logits=True returns one row for every token",
            try_="prefill in several calls, or without all_logits",
        ) from error


def _busy(verb: str) -> FirstlightError:
    return FirstlightError(
        "F602",
        f"cannot {verb} a session that another call is using",
        where="two threads, or a signal handler, in one session",
        why="a session is one sequence and serves one call at a time",
        try_="one session for each thread: model.session() or session.fork()",
    )


def _refused(name: str, value: object, wanted: str) -> FirstlightError:
    return FirstlightError(
        "F603",
        f"{name}={value!r} cannot be used",
        where=f"generate({name}=...)",
        why=f"it must be {wanted}",
        try_="session.generate(ids, max_new_tokens=64)",
    )
