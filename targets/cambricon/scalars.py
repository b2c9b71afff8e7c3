"""What does not vary inside a tile, as C: indices, sizes, conditions, single numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firstlight.codegen.nests.linear import ONE, Linear, linear
from firstlight.codegen.nests.nodes import Node
from firstlight.codegen.nests.program import Memory
from firstlight.targets.cambricon.text import SCALARS, Writer, atom, constant

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^",
         "shl": "<<", "shr": ">>", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
         "ne": "!="}
FUNCTIONS = {"exp": "expf", "log": "logf", "log1p": "log1pf", "sqrt": "sqrtf", "cos": "cosf",
             "sin": "sinf", "tanh": "tanhf", "fabs": "fabsf", "floor": "floorf",
             "nearbyint": "nearbyintf", "popcount": "__builtin_popcount", "floordiv": "fl_div",
             "mod": "fl_mod", "max": "fl_max", "min": "fl_min"}
LONG = 60
"""Longer expressions get a name."""
WIDE = 1 << 31


@dataclass
class Place:
    """A buffer in global memory: the pointer's name in the kernel."""

    pointer: str
    memory: Memory

    @property
    def wide(self) -> bool:
        """Whether places in it need 64 bits."""
        count = self.memory.elements
        while count.number is None and count.op == "mul":   # S is the last factor, if there is one
            count = max(count.args, key=lambda n: n.number or 0)
        return (count.number or 0) >= WIDE


@dataclass
class Scalars:
    """Writes expressions; one instance for each block of C.

    at      names of axes and of `S`
    acc     the text of the node ``acc``
    """

    out: Writer
    places: Mapping[str, Place]
    at: Mapping[str, str]
    acc: str = ""
    done: dict[Node, str] = field(default_factory=dict)

    def text(self, node: Node) -> str:
        """A node as C, named where it is long."""
        if node not in self.done:
            text = self.make(node)
            if len(text) > LONG:
                text = self.out.scalar(node.dtype, text)
            self.done[node] = text
        return self.done[node]

    def make(self, node: Node) -> str:
        op = node.op
        if op == "const":
            return constant(node.args[0], node.dtype)
        if op == "var":
            return self.at[str(node.args[0])]
        if op == "acc":
            return self.acc
        if op == "load":
            place = self.places[str(node.args[0])]
            text = f"{place.pointer}[{self.index(linear(node.args[1], {}), place)}]"
            return f"(int32_t){text}" if node.dtype == "int64" else text
        args = [self.text(a) for a in node.args]
        if op == "cast":
            return f"({SCALARS[node.dtype]}){atom(args[0])}"
        if op == "reinterpret":
            return f"fl_as_{node.dtype}({args[0]})"
        if op == "not":
            return f"!{atom(args[0])}"
        if op in ("select", "if_then_else"):
            return f"{atom(args[0])} ? {atom(args[1])} : {atom(args[2])}"
        if op == "recip":
            return f"1.0f / {atom(args[0])}"
        if op in INFIX:
            sign = INFIX[op]
            sign = sign * 2 if node.dtype == "bool" and op in ("and", "or") else sign
            return f"{atom(args[0])} {sign} {atom(args[1])}"
        if op in FUNCTIONS:
            return f"{FUNCTIONS[op]}({', '.join(args)})"
        raise self.out.refuse(f"the scalar {op} of {node.dtype}")

    def index(self, total: Linear, place: Place) -> str:
        """The place of an element, in 64 bits where the buffer is large."""
        wide, terms = "(int64_t)" * place.wide, []
        for atom_, factor in total.items():
            if atom_ == ONE:
                terms.append(str(factor))
                continue
            text = wide + atom(self.text(atom_))
            terms.append(text if factor == 1 else f"{text} * {factor}")
        return " + ".join(terms) or "0"
