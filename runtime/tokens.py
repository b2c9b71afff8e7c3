"""Checking token ids before they reach code that trusts them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from firstlight.runtime.errors import FirstlightError


def token_array(ids: object, vocab_size: int) -> npt.NDArray[np.int32]:
    """Token ids as a new int32 array [n].

    Takes any sequence of integers or one-dimensional integer array, of any integer type. Raises
    F604 for anything else (floats and booleans too) and F605 for an id outside the vocabulary.
    """
    if isinstance(ids, str | bytes):
        raise _not_ids("a text", "session.prefill(model.tokenizer.encode(text))")
    if isinstance(ids, np.ma.MaskedArray):  # its hidden elements would come back as numbers
        raise _not_ids("a masked array", "ids.compressed() leaves the masked elements out")
    if isinstance(ids, list | tuple):
        # numpy would silently turn [1, True] into integers and [1, 2.0] into floats.
        wrong = next((x for x in ids if not is_integer(x)), None)
        if wrong is not None:
            raise _not_ids(f"a list with {wrong!r} in it", "[int(i) for i in ids]")
    try:
        array = np.asarray(ids)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _not_ids(f"a {type(ids).__name__} ({error})", "a list of int") from error
    if array.ndim != 1:
        raise _not_ids(f"an array of shape {list(array.shape)}", "one sequence, an array of [n]")
    if array.size and array.dtype == object and all(map(is_integer, array)):
        raise _out_of_range(max(array, key=abs), vocab_size)  # too large for any numpy integer
    if array.size and array.dtype.kind not in "iu":
        raise _not_ids(f"an array of {array.dtype}", "ids.astype(np.int32)")
    outside = np.flatnonzero((array < 0) | (array >= vocab_size)) if array.size else array
    if outside.size:
        first = int(outside[0])
        raise _out_of_range(int(array[first]), vocab_size, first)
    return array.astype(np.int32)


def one_token(token: object, vocab_size: int) -> npt.NDArray[np.int32]:
    """A single token id as an int32 array [1]; errors as ``token_array``."""
    if type(token) is int and 0 <= token < vocab_size:
        return np.array([token], np.int32)  # what follows is slow where caches are full of weights
    if isinstance(token, np.ndarray) and token.ndim == 0:
        token = token[()]
    if not is_integer(token):
        raise _not_ids(f"{token!r} as one token", "decode(int(token)); prefill takes several")
    return token_array([token], vocab_size)


def is_integer(value: object) -> bool:
    """Whether a value is a whole number and not a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _not_ids(what: str, hint: str) -> FirstlightError:
    return FirstlightError(
        "F604",
        f"{what} is not a sequence of token ids",
        where="the token ids given",
        why="token ids are whole numbers in a list or a one-dimensional integer array",
        try_=hint,
    )


def _out_of_range(token: int, vocab_size: int, at: int | None = None) -> FirstlightError:
    return FirstlightError(
        "F605",
        f"token id {token} is outside the vocabulary",
        where="the token ids given" if at is None else f"token {at} of those given",
        why=f"ids of this model go from 0 to {vocab_size - 1}",
        try_="encode with this model's own tokenizer: model.tokenizer.encode(text)",
    )
