"""What steps read and write, and which of them something needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Nest, Repeat, Selection


def writes(step: Any) -> Iterator[str]:
    """Names of memories that a step writes."""
    if isinstance(step, Repeat):
        for one in step.steps:
            yield from writes(one)
    else:
        yield step.buffer.name


def reads(step: Any) -> Iterator[str]:
    """Names of memories that a step reads."""
    if isinstance(step, Repeat):
        for one in step.steps:
            yield from reads(one)
        return
    yield from (n.args[0] for node in nodes(step) for n in walk(node) if n.op == "load")


def nodes(step: Any) -> list[Node]:
    """The expressions of a step that is not repeated."""
    if isinstance(step, Selection):
        return [step.value, step.index, step.candidate.extent, *(a.extent for a in step.axes)]
    if not isinstance(step, Nest):
        own: list[Node] = step.nodes
        return own
    condition = [] if step.condition is None else [step.condition]
    axes = [*step.axes, *(a for p in step.parts for a in p.axes)]
    return [step.value, step.index, *condition, *(p.term for p in step.parts),
            *(a.extent for a in axes)]


def live(steps: Sequence[Any]) -> list[Any]:
    """Steps without those whose results nothing reads."""
    needed: set[str] = set()
    kept = []
    for step in reversed(steps):
        if isinstance(step, Repeat) or step.buffer.pointer is not None \
                or step.buffer.name in needed:
            kept.append(step)
            needed |= set(reads(step))
    return kept[::-1]
