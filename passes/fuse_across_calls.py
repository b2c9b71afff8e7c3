"""fuse-across-calls: the stream mixers between two sublayers become one op."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.decompose import ordered
from firstlight.passes.base import Pass
from firstlight.passes.fuse import drop_uncalled

BEFORE, AFTER, JOINT = "hyper_post", "hyper_pre", "hyper_mix"


@dataclass(frozen=True)
class FuseAcrossCalls(Pass):
    """For targets that have `hyper_mix`: what one call ends with and the next begins with.

    before   %x1 = call(%x0, ..) @attn              @attn: .. ; %r = hyper_post(..) ; return %r
             %x2 = call(%x1, %fn, .., %y) @ffn      @ffn: %u, .. = hyper_pre(%arg0, %fn, ..) ; ..
    after    %x1, %u, .. = call(%x0, .., %fn, ..) @attn_0
             %x2 = call(%x1, %y, %u, ..) @ffn_0

    The first function takes the weights of the second's `hyper_pre`, does it, too, and hands its
    results on. A function that is called in several surroundings becomes several functions.
    """

    name: ClassVar[str] = "fuse-across-calls"
    rules: ClassVar[tuple[str, ...]] = (JOINT,)

    def run(self, module: Module) -> Module:
        """The module with every such pair joined."""
        made: dict[_Key, Function] = {}
        out = module
        for function in module:
            links = tuple(_links(function, out))
            if links:
                out = _rebuild(function, out, links, made)
        return drop_uncalled(ordered(out), module)


@dataclass(frozen=True)
class _Link:
    """Two calls, and the ops that become one: the last of the one's, the first of the other's."""

    giver: Op
    last: Op
    taker: Op
    first: Op


_Key = tuple[str, bool, "Op | None", str]


def _links(function: Function, module: Module) -> Iterator[_Link]:
    """A call may be the first of one link and the second of another."""
    producers, givers = function.producers(), set[Op]()
    for op in function.ops:
        first = _first(module[str(op.attrs["callee"])]) if op.name == "call" else None
        if first is None:
            continue
        streams, *weights = _outside(op, first, module)
        giver = producers.get(streams)
        if giver is None or giver.name != "call" or giver in givers:
            continue
        callee = module[str(giver.attrs["callee"])]
        last = callee.producers().get(callee.results[giver.results.index(streams)])
        if last is not None and last.name == BEFORE and all(w in function.args for w in weights):
            givers.add(giver)
            yield _Link(giver, last, op, first)


def _first(function: Function) -> Op | None:
    """The op of a function that reads nothing but arguments and may have been done before."""
    found = [op for op in function.ops
             if op.name == AFTER and all(v in function.args for v in op.operands)]
    return found[0] if len(found) == 1 else None


def _outside(call: Op, op: Op, module: Module) -> list[Value]:
    """What operands of an op in the function that is called are for the caller."""
    args = module[str(call.attrs["callee"])].args
    return [call.operands[args.index(v)] for v in op.operands]


def _rebuild(function: Function, module: Module, links: Sequence[_Link],
             made: dict[_Key, Function]) -> Module:
    """The module with the function's linked calls replaced."""
    takes, gives = {link.taker: link for link in links}, {link.giver: link for link in links}
    builder = Builder(function.name, module)
    values = {arg: builder.arg(arg.type, arg.loc) for arg in function.args}
    handed: dict[Op, tuple[Value, ...]] = {}
    for op in function.ops:
        taken, given = takes.get(op), gives.get(op)
        if taken is None and given is None:
            new = builder.emit(op.name, *[values[v] for v in op.operands], loc=op.loc, **op.attrs)
            values.update(zip(op.results, new.results, strict=True))
            continue
        callee = module[str(op.attrs["callee"])]
        operands = [values[v] for arg, v in zip(callee.args, op.operands, strict=True)
                    if arg not in _unread(callee, taken)]
        if taken is not None:
            operands += handed[taken.giver]
        if given is not None:
            operands += [values[w] for w in _outside(given.taker, given.first, module)[1:]]
        variant = _variant(callee, builder.module, taken, given, made)
        builder.module = builder.module.with_function(variant)
        new = builder.emit("call", *operands, loc=op.loc, callee=variant.name)
        count = len(op.results)
        values.update(zip(op.results, new.results[:count], strict=True))
        handed[op] = new.results[count:]
    return builder.module.with_function(builder.finish(*[values[v] for v in function.results]))


def _unread(function: Function, taken: _Link | None) -> set[Value]:
    """Arguments that nobody reads when the first op is done elsewhere."""
    if taken is None:
        return set()
    others = {v for op in function.ops if op is not taken.first for v in op.operands}
    return set(taken.first.operands) - others - set(function.results)


def _variant(function: Function, module: Module, taken: _Link | None, given: _Link | None,
             made: dict[_Key, Function]) -> Function:
    """The function without its first op, whose results are arguments, and with the next one's."""
    next_ = "" if given is None else f"{given.first.attrs} {[v.type for v in given.first.operands]}"
    key = (function.name, taken is not None, given.last if given else None, next_)
    if key in made:
        return made[key]
    names = (f"{function.name}_{i}" for i in range(len(module.functions) + 1))
    builder = Builder(next(n for n in names if n not in module.functions), module)
    dropped = _unread(function, taken)
    values = {arg: builder.arg(arg.type, arg.loc) for arg in function.args if arg not in dropped}
    if taken is not None:
        values.update((v, builder.arg(v.type, v.loc)) for v in taken.first.results)
    more: tuple[Value, ...] = ()
    for op in function.ops:
        if taken is not None and op is taken.first:
            continue
        operands = [values[v] for v in op.operands]
        if given is not None and op is given.last:
            weights = [builder.arg(v.type, v.loc) for v in given.first.operands[1:]]
            values[op.result], *rest = builder.emit(JOINT, *operands, *weights, loc=op.loc,
                                                    **given.first.attrs).results
            more = tuple(rest)
            continue
        new = builder.emit(op.name, *operands, loc=op.loc, **op.attrs)
        values.update(zip(op.results, new.results, strict=True))
    made[key] = builder.finish(*[values[v] for v in function.results], *more)
    return made[key]
