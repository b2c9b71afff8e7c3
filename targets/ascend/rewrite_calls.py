"""Calls of the functions in emulator.cpp: what they take, and what a module of them needs.

A memory operand becomes twelve integers: address, offset, five sizes and five strides (in elements;
sides that a memory lacks are put in front, with size 1 and stride 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firstlight.targets.ascend.rewrite_ops import Refused, memref
from firstlight.targets.ascend.rewrite_upstream import fresh, types

RANK = 5
SIZES = {"ub": 253952, "l1": 524288, "l0c": 262144}
"""Bytes of a core's memories that code may use; emulator.cpp has the same."""
KINDS = {"f32": 0, "f16": 1, "bf16": 2, "i8": 3, "i16": 4, "i32": 5, "i64": 6, "f8E4M3FN": 7}
"""Element types as emulator.cpp numbers them."""
BITS = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "f8E4M3FN": 8,
        "i1": 1}
"""Of an element in memory: masks lie there bit by bit."""


@dataclass
class Context:
    """What the ops of a module need besides themselves.

    shims    declarations of emulator.cpp's functions in use
    views    functions that give a typed piece of a core's memory
    beliefs  why a result would only show what we believe about the chip
    aliases  the module's attribute aliases
    """

    shims: set[str] = field(default_factory=set)
    views: dict[tuple[str, str], str] = field(default_factory=dict)
    beliefs: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)

    def call(self, name: str, arguments: list[str], result: str = "") -> str:
        """A call of a function that takes and gives integers."""
        self.shims.add(f"func.func private @{name}({', '.join(['i64'] * len(arguments))})"
                       f"{' -> i64' if result else ''}")
        kinds = ", ".join(["i64"] * len(arguments))
        return (f"{result + ' = ' if result else ''}func.call @{name}({', '.join(arguments)}) : "
                f"({kinds}) -> {'i64' if result else '()'}")

    def view(self, result: str, space: str, address: str, sides: list[str], type_: str) -> str:
        """A call that gives a piece of a core's memory.

        It is a function because upstream's --expand-strided-metadata takes the pointer of a
        `memref.view` for that of what it is a view of (LLVM 19).
        """
        name = f"piece{len(self.views)}"
        whole = f"memref<{SIZES[space]}xi8>"
        more = [f"%side{i}: index" for i in range(len(sides))]
        text = "\n".join([
            f"({', '.join([f'%whole: {whole}', '%address: i64', *more])}) -> {type_} {{",
            "%offset = arith.index_cast %address : i64 to index",
            f"%piece = memref.view %whole[%offset][{', '.join(m.split(':')[0] for m in more)}] : "
            f"{whole} to {type_}",
            f"func.return %piece : {type_}", "}"])
        name = self.views.setdefault((space, text), name)
        return (f"{result} = func.call @{name}({', '.join([f'%{space}', address, *sides])}) : "
                f"({', '.join([whole, 'i64', *['index'] * len(sides)])}) -> {type_}")


class Lines:
    """Lines that bring operands into the form that emulator.cpp takes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def constant(self, value: int) -> str:
        """An i64."""
        name = fresh()
        self.lines.append(f"{name} = arith.constant {int(value)} : i64")
        return name

    def integer(self, value: str, type_: str) -> str:
        """An index, i1 or i32 as i64."""
        if type_ == "i64":
            return value
        name = fresh()
        cast = {"index": "index_cast", "i1": "extui"}.get(type_, "extsi")
        self.lines.append(f"{name} = arith.{cast} {value} : {type_} to i64")
        return name

    def view(self, value: str, type_: str, line: str) -> list[str]:
        """The twelve integers of a memory."""
        kind = memref(type_)
        if kind.rank > RANK:
            raise Refused(f"a memory of {kind.rank} dimensions", line)
        base, parts = fresh(), [fresh() for _ in range(1 + 2 * kind.rank)]
        there = fresh()
        element = types(kind.element)
        results = ", ".join([f"memref<{element}>"] + ["index"] * len(parts))
        self.lines += [
            f"{', '.join([base, *parts])} = memref.extract_strided_metadata {value} : "
            f"{types(type_)} -> {results}",
            f"{there} = memref.extract_aligned_pointer_as_index {value} : {types(type_)} -> index",
        ]
        pointer = self.integer(there, "index")
        offset, *rest = [self.integer(part, "index") for part in parts]
        missing = RANK - kind.rank
        sizes = [self.constant(1) for _ in range(missing)] + rest[: kind.rank]
        strides = [self.constant(0) for _ in range(missing)] + rest[kind.rank:]
        return [pointer, offset, *sizes, *strides]
