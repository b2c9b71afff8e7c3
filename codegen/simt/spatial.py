"""Which loops of a generic kernel are independent: those that only number results.

Generic kernels say it with blocks: an axis of a block is spatial or it reduces. The emitter makes
only the outermost loop parallel, which is enough for cores; thousands of threads want all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from firstlight.codegen.tvm_bridge import PrimFunc, s_tir, sequence, tirx, variables

SPATIAL = 0
SERIAL, PARALLEL = tirx.ForKind.SERIAL, tirx.ForKind.PARALLEL


def spread(func: PrimFunc) -> PrimFunc:
    """`func` with every outer loop parallel whose rounds do not depend on each other.

        before   parallel s: serial n: block(spatial s, n)
        after    parallel s: parallel n: block(spatial s, n)

    Only loops that follow each other directly from the outermost one inwards are looked at.
    """
    return func.with_body(_outer(func.body))


def _outer(stmt: Any) -> Any:
    kind = type(stmt).__name__
    if kind == "SBlockRealize" and not stmt.block.iter_vars:
        block = stmt.block
        body = _outer(block.body)
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
            block.alloc_buffers, block.match_buffers, block.annotations))
    if kind == "SeqStmt":
        return sequence([_outer(part) for part in stmt.seq])
    if kind == "For" and _independent(stmt):
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, PARALLEL, _outer(stmt.body),
                        None, stmt.annotations)
    return stmt


def _independent(loop: Any) -> bool:
    """Whether each block in the loop uses its variable for spatial axes only, and one does."""
    kind = int(loop.kind)
    if kind == int(PARALLEL):
        return True
    if kind != int(SERIAL):
        return False
    found = False
    for realize in _blocks(loop.body):
        for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
            if any(v.same_as(loop.loop_var) for v in variables(value)):
                if int(axis.iter_type) != SPATIAL:
                    return False
                found = True
    return found


def _blocks(stmt: Any) -> Iterator[Any]:
    """The outermost blocks of a statement."""
    kind = type(stmt).__name__
    if kind == "SBlockRealize":
        yield stmt
    elif kind == "SeqStmt":
        for part in stmt.seq:
            yield from _blocks(part)
    elif kind == "For":
        yield from _blocks(stmt.body)
    elif kind == "IfThenElse":
        for part in (stmt.then_case, stmt.else_case):
            if part is not None:
                yield from _blocks(part)
