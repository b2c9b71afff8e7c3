"""Lines of BANG C, places in NRAM, and constants as the language wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from firstlight.runtime.errors import FirstlightError

ALIGN = 64
TYPES = {"float32": "float", "int32": "int32_t", "uint32": "uint32_t", "uint8": "uint8_t",
         "uint16": "uint16_t", "float16": "half", "bfloat16": "bfloat16_t", "int64": "int64_t",
         "bool": "int32_t"}
"""Element types in memory and in NRAM; a truth value of a vector is a mask, 0 or -1."""
SCALARS = {**TYPES, "bool": "bool", "uint8": "int32_t", "uint16": "uint32_t", "int64": "int64_t"}
WIDTHS = {"float32": 4, "int32": 4, "uint32": 4, "uint8": 1, "uint16": 2, "float16": 2,
          "bfloat16": 2, "int64": 8, "bool": 4}
Size = int | str
"""A number of things: known when the kernel is written, or a C expression."""


def times(*sizes: Size) -> Size:
    """A product of sizes.

    >>> times(2, "n", 3)
    '6 * n'
    """
    fixed = math.prod(s for s in sizes if isinstance(s, int))
    open_ = [atom(s) for s in sizes if isinstance(s, str)]
    if not open_ or fixed == 0:
        return fixed
    return " * ".join(([str(fixed)] if fixed != 1 else []) + open_)


def atom(text: Size) -> str:
    """An expression as part of a larger one."""
    text = str(text)
    return text if re.fullmatch(r"[\w.]+", text) else f"({text})"


def constant(value: float | int | bool, dtype: str) -> str:
    """A literal: a floating one without f would be a half."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in ("float32", "float16"):
        if not math.isfinite(value):
            return f"fl_as_float32({hex(int(np.float32(value).view(np.uint32)))}u)"
        text = str(np.float32(value))
        text = text if re.search(r"[.e]", text) else text + ".0"
        return f"{text.replace('e+', 'e').replace('e-0', 'e-')}f"
    if dtype == "uint32":
        return f"{int(value) & 0xFFFFFFFF}u"
    return "(-2147483647 - 1)" if int(value) == -(2**31) else str(int(value))


@dataclass
class Room:
    """A place in NRAM."""

    offset: int
    size: int


@dataclass
class Nram:
    """What of a core's NRAM is in use: first fit, in whole lines of 64 bytes."""

    most: int = 0
    free: list[tuple[int, int]] = field(default_factory=lambda: [(0, 1 << 40)])

    def take(self, size: int) -> Room:
        """A place of `size` bytes."""
        size = max(-(-size // ALIGN), 1) * ALIGN
        for i, (offset, length) in enumerate(self.free):
            if length >= size:
                rest = [(offset + size, length - size)] * (length > size)
                self.free[i: i + 1] = rest
                self.most = max(self.most, offset + size)
                return Room(offset, size)
        raise AssertionError("the last free place has no end")

    def give(self, room: Room) -> None:
        """Give a place back."""
        places = sorted([*self.free, (room.offset, room.size)])
        merged = [places[0]]
        for offset, length in places[1:]:
            last, size = merged[-1]
            if last + size == offset:
                merged[-1] = (last, size + length)
            else:
                merged.append((offset, length))
        self.free = merged


@dataclass
class Writer:
    """Lines of one kernel's function; `taken` are names of its parameters."""

    where: str
    taken: frozenset[str] = frozenset()
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    count: int = 0
    nram: Nram = field(default_factory=Nram)
    arrays: dict[str, int] = field(default_factory=dict)
    tables: int = 0
    sram: int = 0

    @property
    def wram(self) -> int:
        """Bytes of all arrays there."""
        return sum(self.arrays.values())

    def matrix(self, nbytes: int, array: str = "wram") -> str:
        """The name of an array in WRAM, of so many bytes at least. It holds one matrix at a time:
        where a part of one lies is not known."""
        self.arrays[array] = max(self.arrays.get(array, 0), nbytes)
        return f"{self.where}_{array}"

    def line(self, text: str) -> None:
        """A line at the current depth."""
        self.lines.append("    " * self.depth + text)

    def fresh(self, letter: str) -> str:
        """A new name."""
        self.count += 1
        name = f"{letter}{self.count}"
        return name if name not in self.taken else self.fresh(letter)

    @contextmanager
    def braces(self, head: str) -> Iterator[None]:
        """``head { ... }`` around what is written inside."""
        self.line(f"{head} {{".lstrip())
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    def call(self, function: str, *arguments: Size) -> None:
        """A call as a statement."""
        self.line(f"{function}({', '.join(map(str, arguments))});")

    def pointer(self, dtype: str, room: Room) -> str:
        """A name for a place in NRAM."""
        name, kind = self.fresh("t"), TYPES[dtype]
        self.line(f"{kind} *{name} = ({kind} *)({self.where}_nram + {room.offset});")
        return name

    def scalar(self, dtype: str, text: str) -> str:
        """A name for a scalar."""
        name = self.fresh("s")
        self.line(f"const {SCALARS[dtype]} {name} = {text};")
        return name

    def refuse(self, what: str) -> FirstlightError:
        """The error for something that this emitter has no text for."""
        return FirstlightError("F405", f"the emitter cannot handle {what}", where=self.where,
                               why="it has no rule for it",
                               try_="add an entry to targets/cambricon/values.py")
