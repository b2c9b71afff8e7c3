"""A kernel as BANG C: one function, its place in NRAM and WRAM, and the size of its workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.nodes import Node, const, make
from firstlight.codegen.nests.program import Memory, Program, Repeat, Step, program
from firstlight.codegen.target import Source
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cambricon.attention import fused
from firstlight.targets.cambricon.body import Body
from firstlight.targets.cambricon.chips import RESERVED, Chip
from firstlight.targets.cambricon.codes import Tables, fill
from firstlight.targets.cambricon.groups import Grouped, Lists, arranged
from firstlight.targets.cambricon.scalars import Place, Scalars
from firstlight.targets.cambricon.text import ALIGN, TYPES, WIDTHS, Writer

HEADER = "firstlight_bang.h"
CORES = 4
"""Of a cluster."""
FUNCTIONS = {"block": "cnrtFuncTypeBlock", "union1": "cnrtFuncTypeUnion1",
             "union2": "cnrtFuncTypeUnion2", "union4": "cnrtFuncTypeUnion4",
             "union8": "cnrtFuncTypeUnion8"}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "floordiv": "/"}
BUDGETS = (8192, 4096, 2048, 1024, 512, 256, 128)
"""Most elements of a tile: the first that fits in NRAM with all that lives beside it."""


def source(chip: Chip, kernel: Kernel, matrix: bool = True, clusters: int = 1,
           staging: bool = True, bf16: bool = False) -> Source:
    """A kernel's text, and what it needs.

    Args:
        matrix: whether products are the matrix unit's.
        bf16: whether those are of bf16 numbers, where that rounds nothing.
        clusters: that work on a kernel: together where its tasks meet (UnionN), else task by task,
            whichever core is free (Block).
        staging: whether what a cluster's cores share goes through its SRAM.

    Raises F405 for TIR that generic kernels do not have, F408 if no tile is small enough.
    """
    steps = fused(kernel, program(kernel)) if matrix else program(kernel)
    names = [name for name, _ in steps.pointers]
    names = [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    for budget in BUDGETS:
        writer = Writer(kernel.name, frozenset(names))
        text, workspace = _function(steps, names, chip, writer, budget, matrix, clusters,
                                    staging, bf16)
        used = writer.nram.most + writer.tables
        if (used <= chip.nram - RESERVED and writer.wram <= chip.wram
                and writer.sram <= chip.sram - RESERVED):
            files = {f"{kernel.name}.mlu": text.encode(), HEADER: HELPERS.encode()}
            launch = {"type": _type(writer, clusters), "dim": [CORES * clusters, 1, 1],
                      "budget": budget, "workspace": workspace, "pointers": len(names)}
            return Source(files, kernel.name, launch, {
                "nram_bytes": used, "wram_bytes": writer.wram, "sram_bytes": writer.sram})
    raise FirstlightError(
        "F408", f"{kernel.name} does not fit", where=kernel.name,
        why=f"its smallest tile needs {used} bytes of NRAM; the chip has "
            f"{chip.nram - RESERVED}", try_="cut the op's longest axis")


def _function(steps: Program, names: Sequence[str], chip: Chip, writer: Writer, budget: int,
              matrix: bool, clusters: int, staging: bool, bf16: bool) -> tuple[str, Any]:
    places, end = {}, const(0)
    sizes = Scalars(writer, {}, {"S": "S"})
    for memory in steps.memories.values():
        if memory.pointer is not None:
            places[memory.name] = Place(names[memory.pointer], memory)
    work: Sequence[Step | Lists | Grouped] = steps.steps
    if matrix and staging:
        work = tuple(arranged(work, steps.memories, budget, chip.sram - RESERVED))
    for memory in _workspace(work):
        if memory.name in places:
            continue
        kind, name = TYPES[memory.dtype], writer.fresh("b")
        places[memory.name] = Place(name, memory)
        start = sizes.text(make("mul", "int32", end, const(ALIGN)))
        writer.line(f"{kind} *{name} = ({kind} *)(workspace + {start});")
        size = make("mul", "int32", memory.elements, const(WIDTHS[memory.dtype]))
        end = make("add", "int32", end, make("floordiv", "int32", make(
            "add", "int32", size, const(ALIGN - 1)), const(ALIGN)))
    body = Body(steps, chip, writer, places, budget, matrix, Tables(steps.name), staging,
                bf16)
    before, writer.lines = writer.lines, []
    body.steps(work)
    after, writer.lines = writer.lines, []
    fill(body)
    own = [f"    {line}" for line in before] * bool(body.memory_lines)
    leaves = ["    if (__is_mpu()) {", *own, *body.memory_lines, "        return;", "    }"]
    writer.lines, writer.tables = [*leaves, *before, *writer.lines, *after], body.tables.size
    heads = [f"{TYPES[dtype]} *{name}"
             for name, (_, dtype) in zip(names, steps.pointers, strict=True)]
    end = make("mul", "int32", end, const(ALIGN))
    name, given = steps.name, [*names, "workspace", "S"]
    parameters = ", ".join([*heads, "uint8_t *workspace", "int32_t S"])
    return "\n".join([
        f'#include "{HEADER}"', "", "#ifndef FIRSTLIGHT_TOGETHER",
        *[f"__nram__ uint8_t {name}_nram[{writer.nram.most}];"] * bool(writer.nram.most),
        *[f"__nram__ uint8_t {name}_tables[{writer.tables}];"] * bool(writer.tables),
        *[f"__mlu_shared__ uint8_t {name}_sram[{writer.sram}];"] * bool(writer.sram),
        *[f"__wram__ float {name}_{array}[{size // 4}];" for array, size in writer.arrays.items()],
        "#endif", "",
        f'extern "C" __mlu_global__ void {name}({parameters}) {{', *writer.lines, "}", "",
        f"int64_t {name}_workspace(int64_t S) {{", f"    return {_host(end)};", "}", "",
        "#ifdef FIRSTLIGHT_LAUNCHERS", "#include <cnrt.h>",
        f'extern "C" void {name}_launch(cnrtQueue_t queue, {parameters}) {{',
        f"    cnrtDim3_t dim = {{{CORES * clusters}, 1, 1}};",
        f"    {name}<<<dim, {FUNCTIONS[_type(writer, clusters)]}, queue>>>({', '.join(given)});",
        "}", "#endif",
        ""]), _size(end)


def _type(writer: Writer, clusters: int) -> str:
    """The launch's: tasks that meet must run at the same time."""
    meet = any("__sync_all" in line or "__sync_cluster" in line for line in writer.lines)
    return f"union{clusters}" if meet else "block"


def _host(node: Node) -> str:
    """A size as C of the host: it is not negative, so that C's own division serves."""
    if node.number is not None:
        return str(node.number)
    if node.op == "var":
        return "S"
    a, b = map(_host, node.args)
    if node.op in ("max", "min"):
        return f"({a} {'>' if node.op == 'max' else '<'} {b} ? {a} : {b})"
    return f"({a} {SIGNS[node.op]} {b})"


def _size(node: Node) -> Any:
    """A size as the runtime reads it."""
    if node.number is not None:
        return node.number
    if node.op == "var":
        return "S"
    return [node.op, *map(_size, node.args)]


def _workspace(steps: Sequence[Step | Lists | Grouped]) -> Iterator[Memory]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _workspace(step.steps)
        elif isinstance(step, Lists):
            yield from (step.buffer, step.counts)
        else:
            yield step.nest.buffer if isinstance(step, Grouped) else step.buffer


HELPERS = """// What the text of kernels calls; cncc has the rest built in.
#pragma once
#include <bang.h>

__mlu_func__ int32_t fl_div(int32_t a, int32_t b) { return a / b - (a % b < 0); }
__mlu_func__ int32_t fl_mod(int32_t a, int32_t b) { return a % b + (a % b < 0 ? b : 0); }
__mlu_func__ float fl_max(float a, float b) { return a > b ? a : b; }
__mlu_func__ float fl_min(float a, float b) { return a < b ? a : b; }
__mlu_func__ int32_t fl_max(int32_t a, int32_t b) { return a > b ? a : b; }
__mlu_func__ int32_t fl_min(int32_t a, int32_t b) { return a < b ? a : b; }
__mlu_func__ float fl_as_float32(uint32_t bits) { return *(float *)&bits; }
__mlu_func__ uint32_t fl_as_uint32(float x) { return *(uint32_t *)&x; }
__mlu_func__ int32_t fl_as_int32(float x) { return *(int32_t *)&x; }
// The float whose bits, counted from zero up and down, are `key`.
__mlu_func__ float fl_ordered(int64_t key) {
    return fl_as_float32(key < 0 ? 0x80000000u | (uint32_t)-key : (uint32_t)key);
}
"""
