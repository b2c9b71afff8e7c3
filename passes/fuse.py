"""Replacing what `firstlight.passes.match` finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.rewriter import prune
from firstlight.passes.base import Pass
from firstlight.passes.match import Graph, Match, find


@dataclass(frozen=True)
class FusionPass(Pass):
    """Recognises the composites named in `rules`, in this order, by their decompositions."""

    rules: ClassVar[tuple[str, ...]] = ()

    def run(self, module: Module) -> Module:
        """The module with every instance of every rule replaced by one op."""
        return fuse(module, self.rules)


def fuse(module: Module, rules: Sequence[str]) -> Module:
    """Replace all instances of the composites `rules` in all functions."""
    out = module
    for function in module:
        for rule in rules:
            function = fuse_function(function, out, rule)
        out = out.with_function(function)
    return drop_uncalled(out, module)


def fuse_function(function: Function, module: Module, composite: str) -> Function:
    """Replace all instances of one composite in one function."""
    graph = Graph(function, module)
    found: list[Match] = []
    claimed: set[Value] = set()
    for op in reversed(function.ops):   # users first: the larger of two nested instances wins
        match = find(graph, op, composite)
        if match is not None and claimed.isdisjoint(match.results):
            found.append(match)
            claimed.update(match.results)
    while found:
        try:
            return Replacer(graph, found).run()
        except CyclicMatch as e:
            found.remove(e.match)
    return function


class CyclicMatch(Exception):
    """An operand of the match depends on one of its results: it cannot be a single op."""

    def __init__(self, match: Match) -> None:
        super().__init__(match.composite)
        self.match = match


class Replacer:
    """Copies a function in its order.

    A fused op stands where its last result was computed, or earlier if another one is read before.
    """

    def __init__(self, graph: Graph, matches: Sequence[Match]) -> None:
        self.graph = graph
        self.builder = Builder(graph.function.name, graph.module)
        self.values = {arg: self.builder.arg(arg.type, arg.loc) for arg in graph.function.args}
        self.fused = {graph.producers[v]: m for m in matches for v in m.results}
        self.started: set[Match] = set()

    def run(self) -> Function:
        """The new function, without ops that nobody reads any more."""
        for op in self.graph.function.ops:
            match = self.fused.get(op)
            if match is None or match.anchor is op:
                self._emit(op)
        return prune(self.builder.finish(*[self._get(v) for v in self.graph.function.results]))

    def _get(self, value: Value) -> Value:
        if value not in self.values:
            self._emit(self.graph.producers[value])
        return self.values[value]

    def _emit(self, op: Op) -> None:
        if op.results[0] in self.values:
            return
        match = self.fused.get(op)
        if match is None:
            new = self.builder.emit(op.name, *map(self._get, op.operands), loc=op.loc, **op.attrs)
            self.values.update(zip(op.results, new.results, strict=True))
            return
        if match in self.started:
            raise CyclicMatch(match)
        self.started.add(match)
        operands = [self._get(v) for v in match.operands]
        new = self.builder.emit(match.composite, *operands, loc=origin(self.graph, match),
                                **match.attrs)
        self.values.update(zip(match.results, new.results, strict=True))


def origin(graph: Graph, match: Match) -> str:
    """The module path that the ops have in common which the fused op makes unnecessary."""
    unnecessary: list[Op] = []
    for op in reversed(graph.function.ops):
        if op in match.ops and all(
            v in match.results or all(user in unnecessary for user in graph.users.get(v, ()))
            for v in op.results
        ):
            unnecessary.append(op)
    # a constant has the path of whatever used it first
    paths = [op.loc.split(".") for op in unnecessary if op.operands]
    shared = takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return ".".join(names[0] for names in shared)


def drop_uncalled(after: Module, before: Module) -> Module:
    """`after` without the functions that were called in `before` and are not any more."""
    names = (called(before) & set(after.functions)) - called(after)
    kept = Module({name: f for name, f in after.functions.items() if name not in names})
    return drop_uncalled(kept, after) if names else kept


def called(module: Module) -> set[str]:
    """Names of the functions that some op calls."""
    return {str(op.attrs["callee"]) for f in module for op in f.ops if "callee" in op.attrs}
