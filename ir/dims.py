"""Symbolic dimensions: expressions over B (batch), S (tokens of this call) and C (context).

A dimension is an ``int`` or a `Dim`. Dims are compared by their canonical text, so the few forms
that a model needs (``S+127``, ``ceildiv(S,4)``, ``C//128``) are closed under the operations below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.runtime.errors import FirstlightError


@dataclass(frozen=True)
class Dim:
    """``head`` applied to ``args``: a symbol (no args), or add, ceildiv, floordiv by an int."""

    head: str
    base: Dim | None = None
    amount: int = 0

    def __str__(self) -> str:
        if self.base is None:
            return self.head
        if self.head == "add":
            return f"{self.base}+{self.amount}"
        if self.head == "ceildiv":
            return f"ceildiv({self.base},{self.amount})"
        return f"{self.base}//{self.amount}"

    __repr__ = __str__


Size = int | Dim


def symbol(name: str) -> Dim:
    """The dimension called `name`."""
    return Dim(name)


B, S, C = symbol("B"), symbol("S"), symbol("C")


def add(a: Size, b: Size) -> Size:
    """a + b, where at most one side is symbolic."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, Dim):
        raise _unsupported(f"{a} + {b}")
    assert isinstance(a, Dim)
    if b == 0:
        return a
    if a.head == "add":
        assert a.base is not None
        return Dim("add", a.base, a.amount + b)
    return Dim("add", a, b)


def ceildiv(a: Size, b: int) -> Size:
    """ceil(a / b)."""
    if isinstance(a, int):
        return -(-a // b)
    return a if b == 1 else Dim("ceildiv", a, b)


def floordiv(a: Size, b: int) -> Size:
    """floor(a / b)."""
    if isinstance(a, int):
        return a // b
    return a if b == 1 else Dim("floordiv", a, b)


def evaluate(dim: Size, sizes: Mapping[str, int]) -> int:
    """The number behind `dim`; `sizes` gives each symbol."""
    value = substitute(dim, sizes)
    if isinstance(value, int):
        return value
    raise _unsupported(f"{dim}: the size of a symbol is not known ({dict(sizes)})")


def substitute(dim: Size, sizes: Mapping[str, int]) -> Size:
    """`dim` with the symbols of `sizes` replaced by numbers."""
    if isinstance(dim, int):
        return dim
    if dim.base is None:
        return sizes.get(dim.head, dim)
    base = substitute(dim.base, sizes)
    operation = {"add": add, "ceildiv": ceildiv, "floordiv": floordiv}[dim.head]
    return operation(base, dim.amount)


def product(shape: tuple[Size, ...], sizes: Mapping[str, int] | None = None) -> int:
    """Number of elements of a shape."""
    count = 1
    for dim in shape:
        count *= evaluate(dim, sizes or {})
    return count


_TOKEN = re.compile(r"ceildiv\(|//|[+,)]|\d+|[A-Z]\w*")


def parse(text: str) -> Size:
    """Inverse of ``str(dim)``."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text or not tokens:
        raise _unsupported(text)
    try:
        dim, rest = _parse(tokens)
    except (IndexError, ValueError, ZeroDivisionError, RecursionError) as e:
        raise _unsupported(text[:60]) from e
    if rest:
        raise _unsupported(text)
    return dim


def _parse(tokens: list[str]) -> tuple[Size, list[str]]:
    head, *rest = tokens
    dim: Size
    if head == "ceildiv(":
        dim, rest = _parse(rest)
        if len(rest) < 3 or rest[0] != "," or rest[2] != ")":
            raise _unsupported("".join(tokens))
        dim, rest = ceildiv(dim, int(rest[1])), rest[3:]
    else:
        dim = int(head) if head.isdigit() else symbol(head)
    while rest and rest[0] in ("+", "//"):
        dim = (add if rest[0] == "+" else floordiv)(dim, int(rest[1]))
        rest = rest[2:]
    return dim, rest


def _unsupported(text: str) -> FirstlightError:
    return FirstlightError(
        "F201", f"dimension '{text}' cannot be expressed", where="ir.dims",
        why="dimensions are sums and quotients of one symbol and integers",
        try_="reshape so that every axis depends on one symbol",
    )
