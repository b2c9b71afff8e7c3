"""Kernels as BANG C: DMA and vector instructions where there are some, scalars elsewhere."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.printer.c import width
from firstlight.codegen.printer.phases import Phase, split
from firstlight.codegen.printer.vector import VectorPrinter
from firstlight.codegen.target import Source
from firstlight.codegen.walk import dtype
from firstlight.targets.cambricon.chips import RESERVED, Chip

VECTORS = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "maxequal",
           "Min": "minequal"}
FUNCTIONS = {"fabs": "abs", "sqrt": "sqrt"}
ALIGN = 64
TASKS = 4
"""Of a launch: Union1, one cluster of four cores."""


class Scalar(Exception):
    """A vectorized loop that has no vector instructions."""


class BangPrinter(VectorPrinter):
    """One kernel as a function of tasks, whose arrays lie in NRAM."""

    header = "firstlight_bang.h"
    head = "__mlu_global__ void {name}({parameters})"

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip.nram - RESERVED)
        self.chip = chip
        self.near: set[str] = set()
        self.place = self.most = 0
        self.stored: set[Any] = set()

    def source(self, kernel: Kernel) -> Source:
        plain = super().source(kernel)
        text = plain.files[f"{kernel.name}.c"].decode()
        room = [f"__nram__ uint8_t {kernel.name}_nram[{self.most}];", ""] * bool(self.most)
        head = f'#include "{self.header}"\n'
        text = text.replace(head, head + "\n".join(["", *room]), 1)
        files = {f"{kernel.name}.mlu": text.encode(), self.header: self.header_text()}
        return Source(files, kernel.name, {**plain.launch, "type": "union1", "dim": [TASKS, 1, 1]},
                      {"nram_bytes": self.most})

    def header_text(self) -> bytes:
        return HEADER.encode()

    def body(self, name: str, parameters: list[str], stmt: Any) -> None:
        memory, phases = split(stmt)
        with self.braces(self.head.format(name=name, parameters=", ".join(parameters))):
            self.line("if (__is_mpu()) {")
            self.line("    return;")
            self.line("}")
            for declared in memory:
                self.stmt(declared)
            for number, phase in enumerate(phases):
                self.phase(phase)
                if number + 1 < len(phases):
                    self.line("__sync_all_ipu();")

    def phase(self, phase: Phase) -> None:
        """What tasks do between two barriers."""
        self.stored = set()
        for stmt in (phase.loop,) if phase.loop is not None else phase.serial:
            self._collect(stmt)
        if phase.loop is not None:
            self.distributed(phase.loop)
            return
        with self.braces("if (taskId == 0)"):
            for stmt in phase.serial:
                self.stmt(stmt)

    def distributed(self, loop: Any) -> None:
        i, count = self.name(loop.loop_var), self.operand(loop.extent)
        self.shared, before = False, self.place
        with self.braces(f"for (int32_t {i} = taskId; {i} < {count}; {i} += taskDim)"):
            self.stmt(loop.body)
        self.shared, self.place = True, before

    def s_AllocBuffer(self, s: Any) -> None:
        size = self.bytes(s.buffer)
        if self.shared or not isinstance(size, int):
            self.carve(s.buffer, size)
            return
        name = self.name(s.buffer)
        self.near.add(name)
        self.line(self._nram(self.ctype(str(s.buffer.dtype)), name, size))

    def _nram(self, kind: str, name: str, size: int) -> str:
        at, self.place = self.place, self.place + -(-size // ALIGN) * ALIGN
        self.most = max(self.most, self.place)
        if self.most > self.chip.nram - RESERVED:
            self.refuse(f"{self.most} bytes of NRAM")
        return f"{kind} *{name} = ({kind} *)({self.where}_nram + {at});"

    def _collect(self, node: Any) -> None:
        """Buffers that a phase stores to: before a DMA reads one, scalars must have ended."""
        if type(node).__name__ == "BufferStore":
            self.stored.add(node.buffer)
        for field in ("body", "then_case", "else_case"):
            if getattr(node, field, None) is not None:
                self._collect(getattr(node, field))
        for part in getattr(node, "seq", ()):
            self._collect(part)

    # -- vectors --------------------------------------------------------------------------------

    def vector(self, s: Any, lanes: int) -> None:
        start, before = len(self.lines), (self.place, self.depth)
        try:
            self._vector(s, lanes)
        except Scalar:
            del self.lines[start:]
            self.depth = before[1]
            self.serial(s)
        self.place = before[0]

    def _vector(self, s: Any, lanes: int) -> None:
        self.lane, self.lanes, self.element, self.free = s.loop_var, lanes, {}, {}
        start, step = self._along(s.body.indices)
        if step != 1 or dtype(s.body.value) != "float32":
            raise Scalar
        target = f"{self.name(s.body.buffer)} + {start}"
        outer, self.lines = self.lines, []
        loads: list[str] = []
        self.loads, self.fresh = loads, False
        self.depth += 1
        try:
            value = self.lanes_of(s.body.value)
        finally:
            self.depth -= 1
            inner, self.lines = self.lines, outer
        with self.braces(""):
            if loads:
                if self.fresh:
                    self.line("__sync();")
                for text in loads:
                    self.line(text)
                self.line("__sync_io();")
            self.lines += inner
            if self.name(s.body.buffer) in self.near:
                self.line(f"__bang_move({target}, {value}, {4 * lanes});")
            else:
                if inner:
                    self.line("__sync_compute();")
                self.line(f"__memcpy_async({target}, {value}, {4 * lanes}, NRAM2GDRAM);")
                self.line("__sync_io();")

    def lanes_of(self, e: Any) -> str:
        kind = type(e).__name__
        if dtype(e) != "float32":
            raise Scalar
        if not self._varies(e):
            t = self._temporary("float32")
            self.line(f"__bang_write_value({t}, {self.lanes}, {self.expr(e)});")
            return t
        if kind == "TensorLoad":
            return self._load(e)
        if kind in VECTORS:
            a, b = self.lanes_of(e.a), self.lanes_of(e.b)
            if kind == "Div" and not self.chip.division:
                raise Scalar    # a reciprocal and a product would round twice
            return self._instruction(VECTORS[kind], a, b)
        if kind == "Call":
            name = str(e.op.name).rpartition(".")[2]
            if name in FUNCTIONS:
                return self._instruction(FUNCTIONS[name], self.lanes_of(e.args[0]))
        raise Scalar

    def _instruction(self, word: str, *parts: str) -> str:
        for part in parts:
            if part in self.element:
                self.free.setdefault("float32", []).append(part)
        t = self._temporary("float32")
        self.line(f"__bang_{word}({t}, {', '.join(parts)}, {self.lanes});")
        return t

    def _load(self, e: Any) -> str:
        start, step = self._along(e.indices)
        if step != 1:
            raise Scalar
        source = self.name(e.source)
        if source in self.near:
            return f"{source} + {start}"
        t = f"t{len(self.element)}"
        # All loads come first, so none may take a place that an instruction has left.
        self.element[t] = "float32"
        pad = "    " * self.depth
        self.loads += [self._nram("float", t, 4 * self.lanes),
                       f"__memcpy_async({t}, {source} + {start}, {4 * self.lanes}, GDRAM2NRAM);"]
        assert pad
        self.fresh = self.fresh or e.source in self.stored
        return t

    def _temporary(self, element: str) -> str:
        if self.free.get(element):
            return self.free[element].pop()
        t = f"t{len(self.element)}"
        self.element[t] = element
        self.line(self._nram("float", t, width(element) * self.lanes))
        return t


HEADER = """// What the text of generic kernels calls; cncc has the rest built in.
#pragma once
#include <bang.h>

__mlu_func__ int64_t fl_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
__mlu_func__ int64_t fl_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }
__mlu_func__ float fl_max(float a, float b) { return a > b ? a : b; }
__mlu_func__ float fl_min(float a, float b) { return a < b ? a : b; }
__mlu_func__ int64_t fl_max(int64_t a, int64_t b) { return a > b ? a : b; }
__mlu_func__ int64_t fl_min(int64_t a, int64_t b) { return a < b ? a : b; }
__mlu_func__ int32_t fl_max(int32_t a, int32_t b) { return a > b ? a : b; }
__mlu_func__ int32_t fl_min(int32_t a, int32_t b) { return a < b ? a : b; }
__mlu_func__ int64_t fl_max(int64_t a, int32_t b) { return a > b ? a : b; }
__mlu_func__ int64_t fl_min(int64_t a, int32_t b) { return a < b ? a : b; }
__mlu_func__ int64_t fl_max(int32_t a, int64_t b) { return a > b ? a : b; }
__mlu_func__ int64_t fl_min(int32_t a, int64_t b) { return a < b ? a : b; }
__mlu_func__ float fl_as_float32(uint32_t bits) { return *(float *)&bits; }
__mlu_func__ uint32_t fl_as_uint32(float x) { return *(uint32_t *)&x; }
__mlu_func__ int32_t fl_as_int32(float x) { return *(int32_t *)&x; }
"""
