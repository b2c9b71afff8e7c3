"""What of a kernel many workers may do at a time: a kernel is a sequence of phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import tirx

PARALLEL = int(tirx.ForKind.PARALLEL)
VECTORIZED = int(tirx.ForKind.VECTORIZED)


@dataclass(frozen=True)
class Phase:
    """Statements that need no barrier between them.

    `loop` is the parallel loop whose rounds are dealt out to workers; without one, `serial` is
    done by a single worker. Workers meet after a phase: what it wrote, the next one reads.
    """

    loop: Any = None
    serial: tuple[Any, ...] = ()


def split(body: Any) -> tuple[list[Any], list[Phase]]:
    """(declarations of memory, phases) of a flat kernel body.

    A value that is bound between statements ties all that follows into one phase.
    """
    memory: list[Any] = []
    phases: list[Phase] = []
    serial: list[Any] = []
    bound = False
    for stmt in _statements(body):
        kind = type(stmt).__name__
        bound = bound or kind == "Bind"
        if kind in ("DeclBuffer", "AllocBuffer") and not bound:
            memory.append(stmt)
        elif kind == "For" and int(stmt.kind) == PARALLEL and not bound:
            phases += [Phase(serial=tuple(serial))] * bool(serial) + [Phase(loop=stmt)]
            serial = []
        else:
            serial.append(stmt)
    return memory, phases + [Phase(serial=tuple(serial))] * bool(serial)


def _statements(body: Any) -> list[Any]:
    if type(body).__name__ == "SeqStmt":
        return [part for stmt in body.seq for part in _statements(stmt)]
    if type(body).__name__ == "AttrStmt":
        return _statements(body.body)
    return [body]
