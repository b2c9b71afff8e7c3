"""A lowered module as upstream MLIR that computes the same on one core after the other.

The input is what the compiler prints before `convert-vector-to-hivmave`: fusion, tiling, addresses,
the split in cube and vector code and all synchronisation are done, while vector functions are still
made of upstream ops. Each entry gets the three memories of its core as arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from firstlight.targets.ascend.rewrite_calls import SIZES, Context
from firstlight.targets.ascend.rewrite_hivm import chip, special
from firstlight.targets.ascend.rewrite_ops import Op, Refused, balanced, dictionary, parse, split
from firstlight.targets.ascend.rewrite_upstream import (
    NEW,
    check_attributes,
    types,
    upstream,
)


@dataclass(frozen=True)
class Entry:
    """A function that a core starts with.

    core       "aic" (cube) or "aiv" (vector)
    arguments  a type each, ``memref<?xELEMENT>`` or an integer, without the core's memories
    """

    name: str
    core: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """Rewritten code: upstream MLIR, its entries, and what it takes on trust."""

    text: str
    entries: tuple[Entry, ...]
    beliefs: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """The head of a function: arguments as (name, type)."""

    name: str
    private: bool
    arguments: tuple[tuple[str, str], ...]
    results: str
    attributes: dict[str, str]

    @property
    def host(self) -> bool:
        """Whether it is for the machine that launches."""
        return "HOST" in self.attributes.get("hacc.function_kind", "")

    @property
    def entry(self) -> bool:
        """Whether a core starts with it."""
        return "hacc.entry" in self.attributes and not self.host

    @property
    def core(self) -> str:
        """"aic" or "aiv"."""
        return "aic" if "<AIC>" in self.attributes.get("hivm.func_core_type", "") else "aiv"


def function(op: Op) -> Function:
    """The head of a `func.func`."""
    match = re.match(r"(private )?@([\w.$-]+)\(", op.text)
    if match is None:
        raise Refused("a function's head", op.line)
    end = balanced(op.text, match.end() - 1)
    arguments = []
    for argument in split(op.text[match.end(): end]):
        name, _, type_ = argument.partition(": ")
        arguments.append((name, re.sub(r" \{.*\}$", "", type_)))
    results, _, attributes = op.text[end + 1:].partition("attributes ")
    return Function(match[2], bool(match[1]), tuple(arguments), results.strip(),
                    dictionary(attributes) if attributes else {})


def rewrite(text: str) -> Module:
    """Rewrite a printed module. Raises Refused with the name of what is not known."""
    aliases, module = parse(text)
    context = Context(aliases=aliases)
    entries, body = [], []
    for op in module.regions[0]:
        if op.name == "memref.global":
            body += upstream(op)
            continue
        if op.name != "func.func":
            raise Refused(f"an op {op.name} outside of functions", op.line)
        head = function(op)
        if head.host:
            continue
        if not op.regions:
            raise Refused(f"a function {head.name} without a body", op.line)
        if head.entry:
            entries.append(_entry(head, op))
        body += [_head(head), *_ops(op.regions[0], context), "}"]
    heads = [f"{name} = {value}" for name, value in aliases.items() if value.startswith("affine_")]
    views = [f"func.func private @{name}{text}" for (_, text), name in context.views.items()]
    lines = [*heads, "module {", *sorted(context.shims), *views, *body, "}", ""]
    return Module(_renumber("\n".join(lines)), tuple(entries), tuple(sorted(context.beliefs)))


def _renumber(text: str) -> str:
    """New names counted from 0, so that the same module gives the same text."""
    names: dict[str, str] = {}
    return re.sub(rf"{NEW}\d+", lambda m: names.setdefault(m[0], f"{NEW}{len(names)}"), text)


def _entry(head: Function, op: Op) -> Entry:
    kinds = tuple(types(type_) for _, type_ in head.arguments)
    for kind in kinds:
        if not re.fullmatch(r"memref<\?x\w+>|i32|i64", kind):
            raise Refused(f"an argument {kind} of a kernel", op.line)
    return Entry(head.name, head.core, kinds)


def _head(head: Function) -> str:
    arguments = [f"{name}: {types(type_)}" for name, type_ in head.arguments]
    interface = ""
    if head.entry:
        arguments += [f"%{space}: memref<{size}xi8>" for space, size in SIZES.items()]
        interface = " attributes {llvm.emit_c_interface}"
    private = "private " if head.private else ""
    results = f" {types(head.results)}" if head.results else ""
    return f"func.func {private}@{head.name}({', '.join(arguments)}){results}{interface} {{"


def _ops(ops: list[Op], context: Context) -> Iterator[str]:
    for op in ops:
        if special(op):
            yield from chip(op, context)
            continue
        *before, last = upstream(op)
        yield from before
        if not op.regions:
            yield last
            continue
        check_attributes(op)
        yield f"{last} {{"
        yield from _ops(op.regions[0], context)
        for region in op.regions[1:]:
            yield "} else {" if op.name == "scf.if" else "} do {"
            yield from _ops(region, context)
        yield "}"
