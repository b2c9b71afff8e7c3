"""The places of the largest values: rounds of argmax, behind a threshold where there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import linear
from firstlight.codegen.nests.nodes import Node, const, make, substitute, var, walk
from firstlight.codegen.nests.program import Axis, Nest, Selection
from firstlight.targets.cambricon.scalars import Scalars
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

CHUNK = 2048
"""Values looked at together, beside the best ones so far."""
NONE = "fl_as_float32(0xff800000u)"
FILTER = 32
"""From so many to be found on, all others are sorted out by a threshold first."""


def select(body: Body, step: Selection) -> None:
    """Write the `k` first places of each row.

    Values lie behind the best ones so far, whose places are smaller: argmax takes the first of
    equal ones. Places are floats, exact below 2^24, so that filters move them as they move values.
    """
    out, k = body.out, step.k
    length = step.candidate.extent
    chunk = CHUNK if length.number is None else min(CHUNK, max(length.number, 1))
    room = k + chunk
    nest = Nest(step.name, step.axes, step.buffer, step.index, step.value)
    with body.rounds(step.axes) as at:
        size = Scalars(out, body.places, at).text(length)
        body.extents = {"room": room, "best": k}
        whole = body.values(nest, (Axis("room", const(room)),), at)
        best = body.values(nest, (Axis("best", const(k)),), at)
        value, place = (whole.new("float32", ("room",)) for _ in range(2))
        top, where = (best.new("float32", ("best",)) for _ in range(2))
        found = out.pointer("float32", out.nram.take(64))
        out.call("__bang_write_value", top.text, k, NONE)
        out.call("__bang_write_value", where.text, k, "-1.0f")
        first = out.fresh("c")
        with out.braces(f"for (int32_t {first} = 0; {first} < {size}; {first} += {chunk})"):
            count = out.scalar("int32", f"fl_min({chunk}, {size} - {first})")
            _gather(body, nest, step, {**at, "first": first}, count, (value, place), (top, where))
            all_ = out.fresh("n")
            out.line(f"int32_t {all_} = {k} + {count};")
            if k >= FILTER:
                _threshold(body, nest, k, all_, value, place)
            _rounds(body, k, all_, (value, place), (top, where), found)
        result = best.new("int32", ("best",))
        out.call("__bang_float2int32_tz", result.text, where.text, k, 0)
        index = make("add", "int32", step.index, var("best"))
        best.store(Value(result.text, "int32", ("best",), result.held), index,
                   body.places[step.buffer.name])
        for held in (value, place, top, where, result):
            best.give(held)


def _gather(body: Body, nest: Nest, step: Selection, at: dict[str, str], count: str,
            here: tuple[Value, Value], best: tuple[Value, Value]) -> None:
    """The best so far, then the values of a chunk, side by side with their places."""
    out, k = body.out, step.k
    length = step.candidate.extent.number
    chunk = CHUNK if length is None else min(CHUNK, max(length, 1))
    for to, source in zip(here, best, strict=True):
        out.call("__bang_move", to.text, source.text, 4 * k)
    axis = Axis("within", const(chunk))
    body.extents = {**body.extents, "within": count}
    position = make("add", "int32", var("first"), var("within"))
    node = substitute(step.value, {step.candidate.name: position})
    affine = all(_movable(n.args[1]) for n in walk(node) if n.op == "load")
    value, place = here
    if affine:
        values = body.values(nest, (axis,), at)
        got = values.root(node)
        full = values.spread(got, ("within",))
        out.call("__bang_move", f"{value.text} + {k}", full.text, f"4 * {count}")
        for held in (got, full):
            values.give(held)
    else:
        i = out.fresh("i")
        with out.braces(f"for (int32_t {i} = 0; {i} < {count}; ++{i})"):
            scalars = Scalars(out, body.places, {**at, "within": i})
            out.line(f"{value.text}[{k} + {i}] = {scalars.text(node)};")
    values = body.values(nest, (axis,), at)
    steps = values.root(make("cast", "float32", position))
    out.call("__bang_move", f"{place.text} + {k}", steps.text, f"4 * {count}")
    values.give(steps)


def _movable(index: Node) -> bool:
    return not any("within" in atom.vars for atom in linear(index, {}) if atom != var("within"))


def _threshold(body: Body, nest: Nest, k: int, count: str, value: Value, place: Value) -> None:
    """Sort out what cannot be among the `k` largest, by halving the range of floats' bits."""
    out = body.out
    with out.braces(f"if ({count} > {2 * k})"):
        values = body.values(nest, (Axis("room", const(_room(body))),), {"S": "S"})
        mask, kept, spot = (values.new("float32", ("room",)) for _ in range(3))
        low, high = out.fresh("lo"), out.fresh("hi")
        # the largest threshold that k values reach, as a number that grows with the float
        out.line(f"int64_t {low} = -2139095040, {high} = 2139095041;")
        with out.braces(f"while ({high} - {low} > 1)"):
            middle = out.scalar("int64", f"{low} + ({high} - {low}) / 2")
            out.call("__bang_ge_scalar", mask.text, value.text, f"fl_ordered({middle})", count)
            with out.braces(f"if ((int32_t)__bang_count({mask.text}, {count}) >= {k})"):
                out.line(f"{low} = {middle};")
            with out.braces("else"):
                out.line(f"{high} = {middle};")
        edge = out.scalar("float32", f"fl_ordered({low})")
        above, level = out.fresh("n"), out.fresh("n")
        out.call("__bang_gt_scalar", mask.text, value.text, edge, count)
        out.line(f"int32_t {above} = __bang_filter({kept.text}, {value.text}, {mask.text}, "
                 f"{count});")
        out.line(f"{above} = __bang_filter({spot.text}, {place.text}, {mask.text}, {count});")
        out.call("__bang_eq_scalar", mask.text, value.text, edge, count)
        out.line(f"int32_t {level} = __bang_filter({value.text}, {value.text}, {mask.text}, "
                 f"{count});")
        out.line(f"{level} = __bang_filter({place.text}, {place.text}, {mask.text}, {count});")
        with out.braces(f"if ({level} > {k} - {above})"):
            out.line(f"{level} = {k} - {above};")
        for to, source in ((kept, value), (spot, place)):
            with out.braces(f"if ({level} > 0)"):
                out.call("__bang_move", f"{to.text} + {above}", source.text, f"4 * {level}")
            out.call("__bang_move", source.text, to.text, f"4 * ({above} + {level})")
        out.line(f"{count} = {above} + {level};")
        for held in (mask, kept, spot):
            values.give(held)


def _room(body: Body) -> int:
    room = body.extents["room"]
    assert isinstance(room, int)
    return room


def _rounds(body: Body, k: int, count: str, here: tuple[Value, Value],
            best: tuple[Value, Value], found: str) -> None:
    """The largest one, k times; minus infinity is never chosen."""
    out = body.out
    (value, place), (top, where) = here, best
    out.call("__bang_write_value", top.text, k, NONE)
    out.call("__bang_write_value", where.text, k, "-1.0f")
    j = out.fresh("j")
    with out.braces(f"for (int32_t {j} = 0; {j} < {k}; ++{j})"):
        out.call("__bang_argmax", found, value.text, count)
        largest = out.scalar("float32", f"{found}[0]")
        with out.braces(f"if (!({largest} > {NONE}))"):
            out.line("break;")
        at = out.scalar("uint32", f"((uint32_t *){found})[1]")
        out.line(f"{top.text}[{j}] = {largest};")
        out.line(f"{where.text}[{j}] = {place.text}[{at}];")
        out.line(f"{value.text}[{at}] = {NONE};")
