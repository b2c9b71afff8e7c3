"""Paths that come from outside, checked before the operating system sees them."""

from __future__ import annotations

import os
from pathlib import Path

from firstlight.runtime.errors import FirstlightError


def checked_path(value: object, code: str, what: str) -> Path:
    """A path given by a caller. Raises ``code`` if it is none, or one that no system can have.

    >>> checked_path("a/b", "F501", "the artifact").name
    'b'
    """
    why = f"a {type(value).__name__} is no path"
    if isinstance(value, str | os.PathLike):
        why = "it holds a character that no path can have"
        try:
            path = Path(value)
            if b"\0" not in os.fsencode(path):
                return path
        except (TypeError, ValueError) as error:
            why = str(error)
    raise FirstlightError(
        code,
        f"{what} has no usable path",
        where=f"{value!r:.80}",
        why=why,
        try_="a str or pathlib.Path",
    )
