"""Expressions of a kernel as small values of our own: hashable, substitutable, without TVM.

A node is an operation, an element type and arguments. ``var`` is a loop axis or the number of
tokens, ``load`` has the name of its buffer and one flat index, ``acc`` is the running value of a
reduction. Everything else computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from firstlight.codegen.walk import Walker, dtype

BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min", "LT": "lt",
    "LE": "le", "GT": "gt", "GE": "ge", "EQ": "eq", "NE": "ne", "And": "and", "Or": "or",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor", "LShift": "shl", "RShift": "shr",
    "FloorDiv": "floordiv", "FloorMod": "mod",
}  # fmt: skip
CALLS = {
    "shift_left": "shl", "shift_right": "shr", "bitwise_and": "and", "bitwise_or": "or",
    "bitwise_xor": "xor", "bitwise_not": "not",
}  # fmt: skip
FOLDED: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "max": max, "min": min,
    "shl": lambda a, b: a << b, "shr": lambda a, b: a >> b, "and": lambda a, b: a & b,
}  # fmt: skip
INTEGERS = ("int32", "int64")


class Node:
    """One operation on nodes (or, for ``const``, ``var``, ``load``, on plain values)."""

    __slots__ = ("_hash", "args", "dtype", "op", "vars")

    def __init__(self, op: str, dtype: str, *args: Any) -> None:
        self.op, self.dtype, self.args = op, dtype, args
        self._hash = hash((op, dtype, args))
        own = {args[0]} if op == "var" else set()
        self.vars: frozenset[str] = frozenset(own).union(*(n.vars for n in self.parts()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (isinstance(other, Node) and self._hash == other._hash and self.op == other.op
                and self.dtype == other.dtype and self.args == other.args)

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, self.args))})"

    def parts(self) -> Iterator[Node]:
        """The nodes it computes from."""
        return (a for a in self.args if isinstance(a, Node))

    @property
    def number(self) -> int | None:
        """The value of an integer constant."""
        return self.args[0] if self.op == "const" and self.dtype in INTEGERS else None


def const(value: Any, dtype: str = "int32") -> Node:
    """A constant."""
    return Node("const", dtype, value)


def var(name: str) -> Node:
    """An axis, or `S`."""
    return Node("var", "int32", name)


def make(op: str, dtype: str, *args: Any) -> Node:
    """A node, folded if its operands are integer constants; 64-bit indices are not told apart."""
    if dtype == "int64" and op != "load":
        dtype = "int32"
    if dtype == "int32" and op == "cast" and args[0].dtype in INTEGERS and args[0].op != "load":
        return args[0]
    if dtype in INTEGERS and op in FOLDED and len(args) == 2:
        a, b = args[0].number, args[1].number
        if a is not None and b is not None:
            return const(FOLDED[op](a, b))
        if (op in ("add", "sub") and b == 0) or (op in ("mul", "floordiv") and b == 1):
            return args[0]
        if (op == "add" and a == 0) or (op == "mul" and a == 1):
            return args[1]
        if op == "mul" and 0 in (a, b):
            return const(0)
    return Node(op, dtype, *args)


def rebuild(node: Node, change: Callable[[Node], Node | None],
            done: dict[Node, Node] | None = None) -> Node:
    """A node with every part replaced by `change(part)`, where that is not None; top down."""
    done = {} if done is None else done
    if node not in done:
        new = change(node)
        if new is None:
            new = make(node.op, node.dtype, *[
                rebuild(a, change, done) if isinstance(a, Node) else a for a in node.args])
        done[node] = new
    return done[node]


def substitute(node: Node, values: Mapping[str, Node]) -> Node:
    """A node with variables replaced."""
    return rebuild(node, lambda n: values.get(n.args[0]) if n.op == "var" else
                   (n if not n.vars else None))


def walk(node: Node) -> Iterator[Node]:
    """A node and all it is made of, each once."""
    seen: set[Node] = set()
    stack = [node]
    while stack:
        here = stack.pop()
        if here not in seen:
            seen.add(here)
            yield here
            stack += here.parts()


class Reader(Walker):
    """TIR expressions as nodes.

    `names` gives a variable's or buffer's node or name: variables of TIR are told apart by
    identity, not by name.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.names: dict[Any, Any] = {}

    def e_Var(self, e: Any) -> Node:
        found = self.names.get(e)
        return found if isinstance(found, Node) else self.refuse(f"the variable {e}")

    def e_IntImm(self, e: Any) -> Node:
        kind = dtype(e)
        return const(int(e.value), "int32" if kind in INTEGERS else kind)

    def e_FloatImm(self, e: Any) -> Node:
        return const(float(e.value), dtype(e))

    def e_Cast(self, e: Any) -> Node:
        return make("cast", dtype(e), self.expr(e.value))

    def e_Select(self, e: Any) -> Node:
        parts = (e.condition, e.true_value, e.false_value)
        return make("select", dtype(e), *map(self.expr, parts))

    def e_Not(self, e: Any) -> Node:
        return make("not", "bool", self.expr(e.a))

    def e_TensorLoad(self, e: Any) -> Node:
        return make("load", dtype(e), self.names[e.source].name,
                    self.flat(e.source, [self.expr(i) for i in e.indices]))

    def e_Call(self, e: Any) -> Node:
        name = str(e.op.name).rpartition(".")[2]
        return make(CALLS.get(name, name), dtype(e), *[self.expr(a) for a in e.args])

    def flat(self, buffer: Any, indices: list[Node]) -> Node:
        """The place of an element in the buffer's memory."""
        place = const(0)
        for index, size in zip(indices, self.names[buffer].shape, strict=True):
            place = make("add", "int32", make("mul", "int32", place, size), index)
        return place


def _binary(op: str) -> Callable[[Reader, Any], Node]:
    return lambda self, e: make(op, dtype(e), self.expr(e.a), self.expr(e.b))


for _kind, _op in BINARY.items():
    setattr(Reader, f"e_{_kind}", _binary(_op))
