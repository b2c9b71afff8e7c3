"""Indices as sums of axes: what DMA can fetch as one tile, and where an axis must be cut for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd

from firstlight.codegen.nests.nodes import INTEGERS, Node, const, make, rebuild, var, walk

ONE = const(1)
Linear = dict[Node, int]
"""Coefficient by atom: an axis, something that is not a sum, or `ONE` for the constant."""
Extents = Mapping[str, int]
"""Number of steps of the axes that have a fixed one."""


def linear(node: Node, extents: Extents) -> Linear:
    """A whole number as a sum; quotients by constants are resolved where the extents allow."""
    if node.number is not None:
        return {ONE: node.number} if node.number else {}
    if node.op == "cast" and node.args[0].dtype in INTEGERS:
        return linear(node.args[0], extents)
    if node.op in ("add", "sub"):
        sign = 1 if node.op == "add" else -1
        return _recombined(
            _sum(linear(node.args[0], extents), linear(node.args[1], extents), sign), extents)
    if node.op == "mul":
        a, b = (linear(x, extents) for x in node.args)
        if set(a) <= {ONE} or set(b) <= {ONE}:
            a, b = (a, b) if set(b) <= {ONE} else (b, a)
            return {atom: c * b.get(ONE, 0) for atom, c in a.items() if b.get(ONE, 0)}
        # a symbolic step: one atom for each addend, so that the others stay sums
        (a, b) = (a, b) if len(a) > len(b) else (b, a)
        other = joined(b)
        return {(other if atom == ONE else make("mul", "int32", atom, other)): c
                for atom, c in a.items()}
    divisor = node.args[1].number if node.op in ("floordiv", "mod") else None
    if divisor is not None and divisor > 0:
        whole, rest = _divided(linear(node.args[0], extents), divisor)
        low, high = bounds(rest, extents)
        if low is not None and high is not None and low // divisor == high // divisor:
            out, step = (whole, low // divisor) if node.op == "floordiv" else (
                rest, -divisor * (low // divisor))
            return _sum(out, {ONE: step} if step else {}, 1)
        inner = Node(node.op, "int32", joined(rest), node.args[1])
        return _sum(whole, {inner: 1}, 1) if node.op == "floordiv" else {inner: 1}
    return {node: 1}


def _divided(total: Linear, divisor: int) -> tuple[Linear, Linear]:
    """total = divisor * whole + rest, with small coefficients in rest."""
    whole = {atom: c // divisor for atom, c in total.items() if c // divisor and c % divisor == 0}
    rest = {atom: c for atom, c in total.items() if c % divisor}
    if ONE in rest:
        steps = rest[ONE] // divisor
        rest[ONE] -= steps * divisor
        if steps:
            whole[ONE] = whole.get(ONE, 0) + steps
    return whole, rest


def _recombined(total: Linear, extents: Extents) -> Linear:
    """x // d * d + x % d is x."""
    for rest, c in total.items():
        if rest.op == "mod" and (divisor := rest.args[1].number):
            whole = Node("floordiv", "int32", *rest.args)
            if total.get(whole) == c * divisor:
                left = {a: n for a, n in total.items() if a not in (rest, whole)}
                inside = {a: n * c for a, n in linear(rest.args[0], extents).items()}
                return _recombined(_sum(left, inside, 1), extents)
    return total


def _sum(a: Linear, b: Linear, sign: int) -> Linear:
    out = dict(a)
    for atom, c in b.items():
        out[atom] = out.get(atom, 0) + sign * c
    return {atom: c for atom, c in out.items() if c}


def bounds(total: Linear, extents: Extents) -> tuple[int | None, int | None]:
    """Least and largest value, None where an atom has no fixed range."""
    low = high = 0
    for atom, c in total.items():
        if atom == ONE:
            low, high = low + c, high + c
            continue
        if atom.op != "var" or atom.args[0] not in extents:
            return None, None
        far = c * (extents[atom.args[0]] - 1)
        low, high = low + min(0, far), high + max(0, far)
    return low, high


def joined(total: Linear) -> Node:
    """The node of a sum."""
    out = const(0)
    for atom, c in total.items():
        term = const(c) if atom == ONE else make("mul", "int32", atom, const(c))
        out = make("add", "int32", out, term)
    return out


def simplified(node: Node, extents: Extents) -> Node:
    """A node with its whole-number sums and quotients resolved, inside indices too."""
    def change(n: Node) -> Node | None:
        if n.op == "load":
            place = linear(simplified(n.args[1], extents), extents)
            return Node("load", n.dtype, n.args[0], joined(place))
        if n.dtype == "int32" and n.op in ("floordiv", "mod"):
            inner = make(n.op, "int32", *(simplified(a, extents) for a in n.args))
            return joined(linear(inner, extents))
        return None

    return rebuild(node, change)


def cuts(node: Node, extents: Extents) -> Iterator[tuple[str, int]]:
    """(axis, length): where the axis, cut into such lengths, makes quotients in `node` sums."""
    for part in walk(node):
        divisor = part.args[1].number if part.op in ("floordiv", "mod") else None
        if divisor is None or divisor <= 0:
            continue
        _, rest = _divided(linear(part.args[0], extents), divisor)
        low, high = bounds(rest, extents)
        if low is not None and high is not None and low // divisor == high // divisor:
            continue
        for atom, c in rest.items():
            if atom.op == "var" and atom.args[0] in extents:
                length = divisor // gcd(divisor, c)
                if 1 < length < extents[atom.args[0]]:
                    yield atom.args[0], length


def coefficient(total: Linear, axis: str) -> int | None:
    """How far a step along `axis` goes; None if that is no constant."""
    axis_node = var(axis)
    if any(axis in atom.vars for atom in total if atom != axis_node):
        return None
    return total.get(axis_node, 0)
