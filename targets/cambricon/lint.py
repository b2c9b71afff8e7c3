"""Language rules that a host compiler does not know, checked on emitted text."""

from __future__ import annotations

import re

from firstlight.runtime.errors import FirstlightError

RULES = (
    (re.compile(r"(?<![\w.])(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+)(?![\w.])"),
     "a literal without f is a half"),
    (re.compile(r"^\s+(?:float|u?int\d+_t|half|bool) \w+\[\d+\];"),
     "arrays on the stack cannot be operands"),
)


def broken(text: str) -> list[tuple[int, str]]:
    """(line, rule) of every violation.

    >>> broken("x = 1.0;\\ny = 1.0f;")
    [(1, 'a literal without f is a half')]
    """
    found = [(number, rule) for number, line in enumerate(text.splitlines(), 1)
             for pattern, rule in RULES if pattern.search(line)]
    body = text.partition("__mlu_global__")[2]
    first = body.splitlines()[1].strip() if body.count("\n") > 1 else ""
    if body and first != "if (__is_mpu()) {":
        found.append((text[: text.index("__mlu_global__")].count("\n") + 2,
                      "the memory core returns first"))
    return found


def check(text: str, name: str) -> None:
    """Raises F408 with the first violation."""
    for line, rule in broken(text):
        raise FirstlightError("F408", f"{name} is not BANG C", where=f"{name}.mlu:{line}",
                              why=rule, try_="report it: the printer must not write this")
