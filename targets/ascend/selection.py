"""The places of the largest values: sorted as 64-bit keys that hold a value and its place."""

from __future__ import annotations

from dataclasses import replace

from firstlight.codegen.nests.nodes import Node, const, make, substitute, var
from firstlight.codegen.nests.program import Axis, Selection
from firstlight.targets.ascend.text import Value
from firstlight.targets.ascend.values import Values

CHUNK = 2048
"""Keys that are sorted at a time: 16 KiB, and as much again for the sorted ones."""
LANES = 64
"""Numbers of keys are multiples of it: whole vectors, and slices that begin where DMA can."""
LAST = 2**31 - 1
NONE = -LAST * 2**32 - 2**31
"""Key of what is never chosen: below every value, and its place reads -1."""


def select(step: Selection, values: Values) -> None:
    """Write the `k` first places of one row.

    Keys are the value's bits, made to compare as a whole number, and below them the place counted
    down: a larger key is a larger value, or an equal one at an earlier place.
    """
    out = values.out
    k = _lanes(step.k)
    length = step.candidate.extent
    chunk = max(k, CHUNK if length.number is None else min(CHUNK, _lanes(length.number)))
    zero, one = out.index(0), out.index(1)
    rounds = values.scalar_index(make("floordiv", "int32", make(
        "add", "int32", length, const(chunk - 1)), const(chunk)))
    type_ = f"tensor<{k}xi64>"
    best = out.op(f"arith.constant dense<{NONE}> : {type_}")
    number, running, result = (out.fresh() for _ in range(3))
    with out.region(f"{result} = scf.for {number} = {zero} to {rounds} step {one} iter_args("
                    f"{running} = {best}) -> ({type_}) {{"):
        keys = _keys(step, values, chunk, number)
        # ascending, so that the best of the chunk are in the opposite order of those so far: the
        # larger ones of each pair are the best of both
        rising = out.op(f"hfusion.sort ins({keys} : tensor<{chunk}xi64>) descending = false "
                        f"sort_axis = 0 -> tensor<{chunk}xi64>")
        if chunk > k:
            rising = out.op(f"tensor.extract_slice {rising}[{chunk - k}] [{k}] [1] : "
                            f"tensor<{chunk}xi64> to {type_}")
        both = out.op(f"arith.maxsi {running}, {rising} : {type_}")
        falling = out.op(f"hfusion.sort ins({both} : {type_}) descending = true sort_axis = 0 -> "
                         f"{type_}")
        out.line(f"scf.yield {falling} : {type_}")
    axis = Axis("best", const(step.k))
    values = replace(values, axes=(axis,), done=[{}])
    all_ = out.op(f"arith.trunci {result} : {type_} to tensor<{k}xi32>")
    if k != step.k:
        all_ = out.op(f"tensor.extract_slice {all_}[0] [{step.k}] [1] : tensor<{k}xi32> to "
                      f"tensor<{step.k}xi32>")
    low = Value(all_, "int32", ("best",), (step.k,))
    last = Value(out.constant(LAST, "int32"), "int32")
    place = values.apply("arith.subi", "int32", last, low)
    values.store(place, make("add", "int32", step.index, var("best")),
                 values.places[step.buffer.name])


def _lanes(count: int) -> int:
    return -(-count // LANES) * LANES


def _keys(step: Selection, values: Values, chunk: int, number: str) -> str:
    """A chunk of candidates as keys."""
    out = values.out
    start = make("mul", "int32", var("chunk"), const(chunk))
    left = make("min", "int32", const(chunk), make("sub", "int32", step.candidate.extent, start))
    whole = step.candidate.extent.number is not None and step.candidate.extent.number % chunk == 0
    axis = Axis("within", const(chunk), None if whole else left)
    values = replace(values, axes=(axis,), at={**values.at, "chunk": number}, done=[{}])
    place = make("add", "int32", start, var("within"))
    value = substitute(step.value, {step.candidate.name: place})
    raw = make("reinterpret", "int32", value)
    zero = make("eq", "bool", raw, const(-LAST - 1))        # -0.0 is as large as 0.0
    bits = make("select", "int32", zero, const(0), raw)
    sign = make("and", "int32", make("shr", "int32", bits, const(31)), const(LAST))
    real = make("gt", "bool", value, const(float("-inf"), "float32"))
    if not whole:
        real = make("and", "bool", make("lt", "bool", var("within"), left), real)
    high = make("select", "int32", real, make("xor", "int32", bits, sign), const(-LAST))
    low = make("select", "int32", real, Node("sub", "int32", const(LAST), place), const(-LAST - 1))
    wide = []
    for half in (high, low):
        value_ = values.spread(values.value(half), ("within",), (chunk,))
        wide.append(out.op(f"arith.extsi {value_.name} : {value_.type} to tensor<{chunk}xi64>"))
    shift = out.op(f"arith.constant dense<{2**32}> : tensor<{chunk}xi64>")
    upper = out.op(f"arith.muli {wide[0]}, {shift} : tensor<{chunk}xi64>")
    return out.op(f"arith.addi {upper}, {wide[1]} : tensor<{chunk}xi64>")
