"""Nodes in terms of what vector instructions do: exp through powers of two, quotients, angles.

Only what varies inside a tile is rewritten; scalars are computed in C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from firstlight.codegen.nests import functions
from firstlight.codegen.nests.nodes import Node, const, make, rebuild
from firstlight.targets.cambricon.codes import coded

REAL, WHOLE = "float32", "int32"
HALF_BITS = ~0xFFF
"""Keeps the upper twelve bits of a float's fraction: products of such halves are exact."""
ROUND = 1.5 * 2.0**23
"""A float to which anything small is added exactly as far as its whole part, ties to even."""
WIDE_SHIFT = 31


def _f(op: str, *args: Node) -> Node:
    return make(op, REAL, *args)


def _i(op: str, *args: Node) -> Node:
    return make(op, WHOLE, *args)


def _real(value: float) -> Node:
    return const(value, REAL)


@dataclass
class Legal:
    """Rewrites nodes that vary along `axes`.

    Attributes:
        division: whether the chip divides vectors; else a reciprocal is corrected.
        most: least upper bound of an index axis, by name.
        tables: whether codes are decoded by tables.
    """

    axes: frozenset[str]
    division: bool
    most: dict[str, int]
    accumulates: bool = False
    tables: bool = False
    leaves: dict[Node, frozenset[Node]] = field(default_factory=dict)
    done: dict[Node, Node] = field(default_factory=dict)
    seen: dict[Node, bool] = field(default_factory=dict)

    def varies(self, node: Node) -> bool:
        """Whether a node differs inside the tile."""
        if node.vars & self.axes:
            return True
        if not self.accumulates:
            return False
        if node not in self.seen:
            self.seen[node] = node.op == "acc" or any(map(self.varies, node.parts()))
        return self.seen[node]

    def node(self, node: Node) -> Node:
        """The rewritten node."""
        return rebuild(node, self._change, self.done)

    def _change(self, node: Node) -> Node | None:
        if not self.varies(node):
            return node
        if node.op == "load":
            return node
        if self.tables:
            extents = {a: self.most[a] + 1 for a in self.axes if a in self.most}
            table = coded(node, extents, self.leaves)
            if table is not None:
                return table
        bf16 = _bf16(node)
        if bf16 is not None:
            return bf16
        rule = self._rule(node)
        if rule is None:
            return None
        return self.node(rule(*node.args))

    def _rule(self, node: Node) -> Callable[..., Node] | None:
        real = node.dtype == REAL
        if node.op in ("floordiv", "mod") and not real:
            return lambda a, b: self.quotient(node.op, a, b)
        if node.op in ("shl", "shr") and self.varies(node.args[1]):
            return lambda a, b: self.shifted(node.op, node.dtype, a, b)
        if node.op == "div" and real:
            return self.reciprocal if not self.division else None
        return {"exp": exp, "log": log, "log1p": lambda x: functions.log1p(x, log), "tanh": tanh,
                "popcount": functions.popcount, "cos": functions.cos, "sin": functions.sin,
                "nearbyint": nearbyint}.get(node.op)

    def reciprocal(self, a: Node, b: Node) -> Node:
        """a / b without division: a product with 1 / b, then once more with what is left."""
        once = _f("recip", b)
        first = _f("mul", a, once)
        left = _residue(a, first, b)
        better = _f("add", first, _f("mul", left, once))
        whole = _f("fabs", first)
        fine = make("and", "bool", make("lt", "bool", whole, _real(1e30)),
                    make("gt", "bool", whole, _real(1e-30)))
        return make("select", REAL, fine, better, first)

    def quotient(self, op: str, a: Node, b: Node) -> Node:
        """a / b rounded down, or what is left; any int32 by a positive divisor."""
        divisor = b.number
        if divisor is not None and divisor > 0 and divisor & (divisor - 1) == 0:
            if op == "mod":
                return _i("and", a, const(divisor - 1))
            return _i("shr", a, const(divisor.bit_length() - 1))
        size = make("cast", REAL, b)
        share = _real(1 / divisor) if divisor else _f("div", _real(1.0), size)

        def about(rest: Node) -> Node:
            return make("cast", WHOLE, _f("floor", _f("mul", make("cast", REAL, rest), share)))

        whole = about(a)
        rest = _i("sub", a, _i("mul", whole, b))
        more = about(rest)
        whole, rest = _i("add", whole, more), _i("sub", rest, _i("mul", more, b))
        low = make("cast", WHOLE, make("lt", "bool", rest, const(0)))
        high = make("cast", WHOLE, make("ge", "bool", rest, b))
        fix = _i("sub", high, low)
        return _i("sub", rest, _i("mul", fix, b)) if op == "mod" else _i("add", whole, fix)

    def shifted(self, op: str, dtype: str, value: Node, amount: Node) -> Node:
        """A shift by amounts that vary, bit by bit of the amount."""
        for bit in range(max(self.largest(amount), 1).bit_length()):
            far = make(op, dtype, value, const(1 << bit))
            chosen = _i("and", _i("shr", amount, const(bit)), const(1))
            value = make("select", dtype, make("ne", "bool", chosen, const(0)), far, value)
        return value

    def largest(self, amount: Node) -> int:
        """The most that a shift's amount can be."""
        if amount.number is not None:
            return min(max(amount.number, 0), WIDE_SHIFT)
        if amount.op == "var":
            return min(self.most.get(str(amount.args[0]), WIDE_SHIFT), WIDE_SHIFT)
        if amount.op == "mod" and amount.args[1].number:
            return min(int(amount.args[1].number) - 1, WIDE_SHIFT)
        if amount.op in ("add", "mul", "max", "min", "and"):
            a, b = map(self.largest, amount.args)
            found = {"add": a + b, "mul": a * b, "max": max(a, b)}
            return min(found.get(amount.op, min(a, b)), WIDE_SHIFT)
        return self.largest(amount.args[0]) if amount.op == "sub" else WIDE_SHIFT


def _bf16(node: Node) -> Node | None:
    """A load of sixteen bits that become the upper half of a float."""
    if node.op != "reinterpret" or node.dtype != REAL or node.args[0].op != "shl":
        return None
    code, amount = node.args[0].args
    if amount.args != (16,) or code.op != "cast" or code.args[0].op != "load":
        return None
    return make("bf16", REAL, code.args[0]) if code.args[0].dtype == "uint16" else None


def _upper(x: Node) -> Node:
    if x.op == "const":
        bits = np.float32(x.args[0]).view(np.int32) & HALF_BITS
        return _real(float(np.int32(bits).view(np.float32)))
    return make("reinterpret", REAL, _i("and", make("reinterpret", WHOLE, x), const(HALF_BITS)))


def _less(a: Node, b: Node) -> Node:
    if a.op == "const":
        return _real(float(np.float32(a.args[0]) - np.float32(b.args[0])))
    return _f("sub", a, b)


def _residue(whole: Node, a: Node, b: Node) -> Node:
    """whole - a * b, where a * b is about `whole`: exact but for the last product."""
    ah, bh = _upper(a), _upper(b)
    al, bl = _less(a, ah), _less(b, bh)
    rest = _f("sub", whole, _f("mul", ah, bh))
    rest = _f("sub", rest, _f("mul", ah, bl))
    rest = _f("sub", rest, _f("mul", al, bh))
    return _f("sub", rest, _f("mul", al, bl))


def exp(x: Node) -> Node:
    """2 to the power of x log2(e), whose rounding is made good: it grows with x."""
    x = _f("max", _f("min", x, _real(200.0)), _real(-200.0))
    scale = float(np.float32(math.log2(math.e)))
    power = _f("mul", x, _real(scale))
    left = _f("sub", _f("mul", x, _real(math.log2(math.e) - scale)),
              _residue(power, x, _real(scale)))
    return _f("mul", _f("pow2", power),
              _f("add", _real(1.0), _f("mul", left, _real(math.log(2.0)))))


def log(x: Node) -> Node:
    """The natural logarithm: that to base 2, as it is in Cambricon's own kernels."""
    return _f("mul", _f("log2", x), _real(math.log(2.0)))


def tanh(x: Node) -> Node:
    """(1 - t) / (1 + t) with the sign of x, where t = exp(-2 |x|)."""
    t = exp(_f("mul", _f("fabs", x), _real(-2.0)))
    size = _f("div", _f("sub", _real(1.0), t), _f("add", t, _real(1.0)))
    return make("select", REAL, make("lt", "bool", x, _real(0.0)),
                _f("sub", _real(0.0), size), size)


def nearbyint(x: Node) -> Node:
    """The nearest whole number of a small one, ties to even."""
    return _f("sub", _f("add", x, _real(ROUND)), _real(ROUND))
