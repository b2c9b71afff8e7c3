"""MLIR text, op by op, in nested regions; what is computed twice in a region is written once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

TYPES = {"float32": "f32", "int32": "i32", "uint32": "i32", "uint8": "i8", "uint16": "i16",
         "float16": "f16", "int64": "i64", "bool": "i1", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Value:
    """A scalar (no axes) or a tile: its name, axes, sizes and element type (as TIR spells it).

    `made` of a truth value: the op and the values that it compares or joins.
    """

    name: str
    dtype: str
    axes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    made: tuple[str, tuple[Value, ...]] | None = None

    @property
    def type(self) -> str:
        """As MLIR spells it."""
        return tensor(self.sizes, self.dtype) if self.sizes else TYPES[self.dtype]


def tensor(sizes: Sequence[int], dtype: str) -> str:
    """A tensor type."""
    return f"tensor<{shape(sizes)}x{TYPES[dtype]}>"


def shape(sizes: Sequence[int | str]) -> str:
    """Sizes as types have them."""
    return "x".join(map(str, sizes))


def number(value: float | int | bool, dtype: str) -> str:
    """A constant's value."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in ("float32", "float16"):
        if math.isnan(value):
            return "0x7FC00000" if dtype == "float32" else "0x7E00"
        if math.isinf(value):
            bits = {"float32": ("0x7F800000", "0xFF800000"), "float16": ("0x7C00", "0xFC00")}
            return bits[dtype][value < 0]
        return repr(float(value)) if "e" not in repr(float(value)) else f"{float(value):.17e}"
    return str(int(value) - (1 << 32) if value >= 1 << 31 else int(value))


@dataclass
class Writer:
    """Lines of a function's body."""

    lines: list[str] = field(default_factory=list)
    depth: int = 2
    count: int = 0
    known: list[dict[str, str]] = field(default_factory=lambda: [{}])

    def line(self, text: str) -> None:
        """A line as it is."""
        self.lines.append("  " * self.depth + text)

    def fresh(self) -> str:
        """A new value's name."""
        self.count += 1
        return f"%{self.count}"

    def op(self, text: str) -> str:
        """The result of an op; always a new one."""
        name = self.fresh()
        self.line(f"{name} = {text}")
        return name

    def pure(self, text: str) -> str:
        """The result of an op without effects; the same op in reach is not repeated."""
        for known in self.known:
            if text in known:
                return known[text]
        name = self.known[-1][text] = self.op(text)
        return name

    @contextmanager
    def region(self, head: str, tail: str = "}") -> Iterator[None]:
        """A region; what is computed in it is not known outside."""
        self.line(head)
        self.depth += 1
        self.known.append({})
        yield
        self.known.pop()
        self.depth -= 1
        self.line(tail)

    # -- what every function needs --------------------------------------------------------------

    def index(self, value: int) -> str:
        """A constant of type index."""
        return self.pure(f"arith.constant {value} : index")

    def empty(self, sizes: Sequence[int], dtype: str) -> str:
        """A tensor without contents."""
        return self.pure(f"tensor.empty() : {tensor(sizes, dtype)}")

    def constant(self, value: float | int | bool, dtype: str,
                 sizes: Sequence[int] = ()) -> str:
        """A scalar, or a tensor of it."""
        text = number(value, dtype)
        if not sizes:
            return self.pure(f"arith.constant {text}" + f" : {TYPES[dtype]}" * (dtype != "bool"))
        return self.pure(f"arith.constant dense<{text}> : {tensor(sizes, dtype)}")

    def fill(self, scalar: str, dtype: str, sizes: Sequence[int]) -> str:
        """A tensor of one scalar."""
        out, type_ = self.empty(sizes, dtype), tensor(sizes, dtype)
        return self.pure(f"linalg.fill ins({scalar} : {TYPES[dtype]}) outs({out} : {type_}) "
                         f"-> {type_}")
