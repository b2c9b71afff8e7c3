"""Which results take the place of an operand that nobody reads any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from firstlight.ir.core import Function, Module, Op, Value

InPlace = Callable[[Op], "int | None"]
"""An op -> the operand whose elements its first result may replace as they are read, if any."""

Roots = Mapping[str, Mapping[Value, Value]]


def taken_places(module: Module, entry: str, roots: Roots, in_place: InPlace
                 ) -> dict[str, dict[Value, Value]]:  # fmt: skip
    """Of each function, results of ops -> the roots of the operands whose bytes they get.

    A place may be taken at an op that is the last to read it, once, if the function computed what
    is there or no caller reads it after the call. A result of a call takes that of an argument if
    it does so in the function that is called.

    Args:
        roots: of each function, value -> the value whose bytes it has, as views and states are.
    """
    free = _free_arguments(module, entry, roots)
    taken: dict[str, dict[Value, Value]] = {}
    for function in module:     # callees first
        own = taken[function.name] = {}
        root = roots[function.name]
        last = _last_reads(function, root)
        mine = _owned(function, free[function.name])
        for index, op in enumerate(function.ops):
            for result, operand in _candidates(op, module, roots, taken, in_place):
                place = root[op.operands[operand]]
                if place in mine and _dies(op, operand, index, root, last):
                    own[op.results[result]] = place
    return taken


def end(value: Value, taken: Mapping[Value, Value]) -> Value:
    """The first value in the place of `value`."""
    while value in taken:
        value = taken[value]
    return value


def _candidates(op: Op, module: Module, roots: Roots, taken: Mapping[str, Mapping[Value, Value]],
                in_place: InPlace) -> Iterator[tuple[int, int]]:  # fmt: skip
    """(result, operand) of an op that may share a place."""
    if op.name == "call":
        callee = module[str(op.attrs["callee"])]
        root, own = roots[callee.name], taken[callee.name]
        for index, value in enumerate(callee.results):
            first = end(root[value], own)
            if first is not root[value] and first in callee.args:
                yield index, callee.args.index(first)
    elif (operand := in_place(op)) is not None and op.operands[operand].type == op.results[0].type:
        yield 0, operand


def _free_arguments(module: Module, entry: str, roots: Roots) -> dict[str, set[Value]]:
    """Of each function the arguments that no caller reads after any of its calls."""
    free = {f.name: set() if f.name == entry else set(f.args) for f in module}
    for function in reversed(list(module)):     # callers first
        root = roots[function.name]
        last, mine = _last_reads(function, root), _owned(function, free[function.name])
        for index, op in enumerate(function.ops):
            if op.name == "call":
                callee = module[str(op.attrs["callee"])]
                free[callee.name] &= {
                    arg for i, arg in enumerate(callee.args)
                    if root[op.operands[i]] in mine and _dies(op, i, index, root, last)}
    return free


def _owned(function: Function, free: set[Value]) -> set[Value]:
    """Values of a function whose bytes may become others'."""
    return free | {v for op in function.ops if op.name != "constant" for v in op.results}


def _last_reads(function: Function, root: Mapping[Value, Value]) -> dict[Value, int]:
    """Roots -> the number of the last op that reads them; of results, behind all ops."""
    last = {root[v]: i for i, op in enumerate(function.ops) for v in op.operands}
    return last | {root[v]: len(function.ops) for v in function.results}


def _dies(op: Op, operand: int, index: int, root: Mapping[Value, Value],
          last: Mapping[Value, int]) -> bool:  # fmt: skip
    """Whether the op is the last to read an operand, and reads it once."""
    place = root[op.operands[operand]]
    return last[place] == index and [root[v] for v in op.operands].count(place) == 1
