"""Finding composites: the decomposition of an op is the pattern that recognises it.

A search has two steps. The *coarse* step traces the decomposition on the op's examples, with a
unique number (a sentinel) in the place of every attribute, and looks for that shape of graph; where
a sentinel stands, the attribute's value is read. Sizes are ignored here, because they differ from
model to model. The *exact* step then traces the decomposition on the operand types and attributes
that were found and compares it with the same ops, attribute by attribute and type by type. Only
what passes it is reported, so a match is correct by construction, whatever the coarse step does.

Names of values and their `loc` play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import count, islice

from firstlight.ir.builder import infer
from firstlight.ir.core import Attr, Function, Module, Op, Value
from firstlight.ir.decompose import expand
from firstlight.ir.ops.elementwise import COMMUTATIVE
from firstlight.ir.registry import lookup
from firstlight.ir.rewriter import prune
from firstlight.runtime.errors import FirstlightError

# Coarse matches of one place that are tried before giving up; more than one only where the operands
# of a commutative op look alike.
ATTEMPTS = 32

Goal = tuple[Value, Value]
Compare = Callable[[Op, Op], "Mapping[str, Attr] | None"]


@dataclass(frozen=True, eq=False)
class Graph:
    """A function with its edges, in the module that has its callees."""

    function: Function
    module: Module

    @cached_property
    def producers(self) -> dict[Value, Op]:
        """The op that defines each value."""
        return self.function.producers()

    @cached_property
    def users(self) -> dict[Value, list[Op]]:
        """The ops that read each value."""
        return self.function.users()


@dataclass(frozen=True, eq=False)
class Pattern:
    """One example of a composite: its traced decomposition, and what the sentinels stand for."""

    composite: str
    graph: Graph
    sentinels: Mapping[Attr, str]
    fixed: Mapping[str, Attr]

    @property
    def anchor(self) -> Value:
        """The result that is computed last; the search starts there."""
        order = [value for op in self.graph.function.ops for value in op.results]
        return max(self.graph.function.results, key=order.index)

    def compare(self, source: Op, op: Op) -> Mapping[str, Attr] | None:
        """Attributes read off `op` if it may stand for the pattern's `source`, else None."""
        found: dict[str, Attr] = {}
        for name, want in source.attrs.items():
            have = op.attrs[name]
            if want in self.sentinels and type(have) is type(want):
                found[self.sentinels[want]] = have
            elif isinstance(want, float) and -want in self.sentinels and isinstance(have, float):
                found[self.sentinels[-want]] = -have
            elif type(want) in (bool, float, str) and name != "callee" and want != have:
                return None             # integers and shapes follow from sizes: the exact step's
        return found


@dataclass(frozen=True, eq=False)
class Match:
    """An instance: `composite` of `operands` with `attrs` computes `results`, as `ops` do now."""

    composite: str
    operands: tuple[Value, ...]
    attrs: Mapping[str, Attr]
    results: tuple[Value, ...]
    anchor: Op
    ops: frozenset[Op]


@cache
def patterns(composite: str) -> tuple[Pattern, ...]:
    """The patterns of a composite, one per example."""
    info = lookup(composite)
    out = []
    for types, example in info.examples:
        sentinels: dict[Attr, str] = {}
        numbers = count(1_000_003)
        for name, kind in info.attrs.items():
            if kind in (int, float):
                sentinels[next(numbers) if kind is int else 1 / next(numbers)] = name
        fixed = {k: v for k, v in example.items() if k not in sentinels.values()}
        attrs = fixed | {name: value for value, name in sentinels.items()}
        function, module = expand(info, types, attrs, Module())
        out.append(Pattern(composite, Graph(prune(function), module), sentinels, fixed))
    return tuple(out)


class Unifier:
    """Maps the values of one graph to those of another, op by op, by backtracking."""

    def __init__(self, source: Graph, target: Graph, compare: Compare) -> None:
        self.source, self.target, self.compare = source, target, compare
        self.values: dict[Value, Value] = {}
        self.attrs: dict[str, Attr] = {}

    def solve(self, goals: tuple[Goal, ...]) -> Iterator[bool]:
        """Each way to map the first value of every goal to the second.

        `values` and `attrs` hold the mapping while the iterator stands at it.
        """
        if not goals:
            yield True
            return
        (want, have), rest = goals[0], goals[1:]
        if want in self.values:
            if self.values[want] is have:
                yield from self.solve(rest)
            return
        source, op = self.source.producers.get(want), self.target.producers.get(have)
        if source is None:
            yield from self._assume({want: have}, {}, rest)
            return
        if op is None or not _alike(source, op, want, have):
            return
        found = self.compare(source, op)
        if found is None or any(self.attrs.get(k, v) != v for k, v in found.items()):
            return
        results = dict(zip(source.results, op.results, strict=True))
        for operands in _orders(op):
            inner = tuple(zip(source.operands, operands, strict=True))
            yield from self._assume(results, found, inner + rest)

    def solve_forwards(self) -> Iterator[bool]:
        """Each way to map what is left of the source, going from mapped values to their users."""
        op, known = self._frontier()
        if op is None:
            if all(v in self.values for v in self.source.function.results):
                yield True
            return
        for user in self.target.users.get(self.values[known], ()):
            if _alike(op, user, op.results[0], user.results[0]):
                for _ in self.solve(((op.results[0], user.results[0]),)):
                    yield from self.solve_forwards()

    def _assume(self, values: Mapping[Value, Value], attrs: Mapping[str, Attr],
                goals: tuple[Goal, ...]) -> Iterator[bool]:
        attrs = {k: v for k, v in attrs.items() if k not in self.attrs}
        self.values.update(values)
        self.attrs.update(attrs)
        yield from self.solve(goals)
        for value in values:
            del self.values[value]
        for name in attrs:
            del self.attrs[name]

    def _frontier(self) -> tuple[Op | None, Value]:
        """The first op that is not mapped but reads a mapped value: the one with fewest users."""
        for op in self.source.function.ops:
            known = [v for v in op.operands if v in self.values]
            if known and op.results[0] not in self.values:
                return op, min(known, key=lambda v: len(self.target.users.get(self.values[v], ())))
        return None, Value(self.source.function.results[0].type)


def find(graph: Graph, op: Op, composite: str) -> Match | None:
    """The instance of `composite` whose last result is computed by `op`."""
    for pattern in patterns(composite):
        last = pattern.graph.producers[pattern.anchor]
        if last.name != op.name:
            continue
        unifier = Unifier(pattern.graph, graph, pattern.compare)
        result = op.results[last.results.index(pattern.anchor)]
        coarse = (True for _ in unifier.solve(((pattern.anchor, result),))
                  for _ in unifier.solve_forwards())
        for _ in islice(coarse, ATTEMPTS):
            match = _prove(pattern, unifier, graph, op)
            if match is not None:
                return match
    return None


def _prove(pattern: Pattern, unifier: Unifier, graph: Graph, anchor: Op) -> Match | None:
    """The coarse match if the decomposition, traced on its operands, is exactly these ops."""
    function = pattern.graph.function
    if any(arg not in unifier.values for arg in function.args):
        return None
    operands = tuple(unifier.values[arg] for arg in function.args)
    results = tuple(unifier.values[value] for value in function.results)
    attrs = {**pattern.fixed, **unifier.attrs}
    info = lookup(pattern.composite)
    try:
        infer(info.name, operands, attrs, graph.module)
        meaning, helpers = expand(info, tuple(v.type for v in operands), attrs, graph.module)
    except FirstlightError:             # these operands do not make a well-formed op
        return None
    goals = tuple(zip(meaning.results, results, strict=True))
    exact = equal(Graph(meaning, helpers), graph, operands, goals)
    if exact is None:
        return None
    ops = frozenset(graph.producers[exact.values[v]] for v in meaning.producers()
                    if v in exact.values)
    return Match(info.name, operands, attrs, results, anchor, ops)


def equal(source: Graph, target: Graph, args: tuple[Value, ...],
          goals: tuple[Goal, ...]) -> Unifier | None:
    """The mapping if both graphs compute the goals by the same ops from `args`, else None."""

    def compare(a: Op, b: Op) -> Mapping[str, Attr] | None:
        if [v.type for v in a.results] != [v.type for v in b.results]:
            return None
        if "callee" not in a.attrs:
            return {} if a.attrs == b.attrs else None
        one, two = (g.module[str(op.attrs["callee"])] for g, op in ((source, a), (target, b)))
        same = ({**a.attrs, "callee": ""} == {**b.attrs, "callee": ""}
                and len(one.results) == len(two.results)
                and equal(Graph(one, source.module), Graph(two, target.module), two.args,
                          tuple(zip(one.results, two.results, strict=True))))
        return {} if same else None

    if len(source.function.args) != len(args):
        return None
    unifier = Unifier(source, target, compare)
    unifier.values.update(zip(source.function.args, args, strict=True))
    return unifier if next(unifier.solve(goals), False) else None


def _alike(source: Op, op: Op, want: Value, have: Value) -> bool:
    return (source.name == op.name and len(source.operands) == len(op.operands)
            and len(source.results) == len(op.results)
            and source.results.index(want) == op.results.index(have))


def _orders(op: Op) -> tuple[tuple[Value, ...], ...]:
    return (op.operands, op.operands[::-1]) if op.name in COMMUTATIVE else (op.operands,)
