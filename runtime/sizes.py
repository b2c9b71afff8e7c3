"""Sizes that depend on the number of tokens of a call, as an artifact's files write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Size = Any
"""int | "S" | [operation, Size, Size]: a number of bytes, rows or groups."""

COUNT = "S"
MOST = 1 << 48
"""No size is as large."""
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "ceildiv": lambda a, b: -(-a // b), "floordiv": lambda a, b: a // b, "max": max, "min": min,
}  # fmt: skip


def value(size: Size, tokens: int) -> int:
    """The number that a size is for S = tokens. Raises ValueError below 0 or beyond all sense."""
    number = _value(size, tokens)
    if not 0 <= number < MOST:
        raise ValueError(f"a size of {number} for {tokens} tokens")
    return number


def _value(size: Size, tokens: int) -> int:
    if size == COUNT:
        return tokens
    if type(size) is int:
        return size
    operation, a, b = size
    return _OPERATIONS[operation](_value(a, tokens), _value(b, tokens))
