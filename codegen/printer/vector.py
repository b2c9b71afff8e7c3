"""Kernels for chips whose cores have a scratch memory: DMA in, vector instructions, DMA out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from firstlight.codegen.printer.c import CPrinter, width
from firstlight.codegen.printer.expressions import HELPERS, OPERATORS
from firstlight.codegen.printer.phases import VECTORIZED, split
from firstlight.codegen.tvm_bridge import along
from firstlight.codegen.walk import dtype

WORDS = Path(__file__).with_name("vector.h")
NAMES = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min", "LT": "lt",
    "LE": "le", "GT": "gt", "GE": "ge", "EQ": "eq", "NE": "ne", "And": "and", "Or": "or",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor", "LShift": "shl", "RShift": "shr",
    "FloorDiv": "floordiv", "FloorMod": "floormod",
}  # fmt: skip
assert NAMES.keys() == OPERATORS.keys() | HELPERS.keys()


class VectorPrinter(CPrinter):
    """One function; tasks share the rounds of parallel loops and meet at SYNC().

    A vectorized loop becomes vector instructions over temporaries in scratch: ``dma_in`` for what
    lies side by side (``dma_strided`` with a step, lane by lane otherwise), ``vec_OP`` for each
    operation, ``dma_out`` at the end. Scalars stay C. Temporaries end with their loop.
    """

    header = "vector.h"
    head = "TASK void {name}({parameters})"

    def __init__(self, local_bytes: int = 1 << 14) -> None:
        super().__init__(local_bytes)
        self.shared = True
        self.lane: Any = None
        self.lanes = self.peak = self.temporary_bytes = 0
        self.element: dict[str, str] = {}
        self.free: dict[str, list[str]] = {}

    def header_text(self) -> bytes:
        return WORDS.read_bytes() + super().header_text()

    def body(self, name: str, parameters: list[str], stmt: Any) -> None:
        memory, phases = split(stmt)
        with self.braces(self.head.format(name=name, parameters=", ".join(parameters))):
            for declared in memory:
                self.stmt(declared)
            for phase in phases:
                if phase.loop is None:
                    with self.braces("if (TASK_ID() == 0)"):
                        for part in phase.serial:
                            self.stmt(part)
                else:
                    self.distributed(phase.loop)
                self.line("SYNC();")
        self.used = self.peak + self.temporary_bytes

    def fits(self, size: int) -> bool:
        return not self.shared and super().fits(size)

    def carve(self, buffer: Any, size: int | str) -> None:
        if not self.shared:
            self.refuse(f"the array {self.name(buffer)} of {size} bytes in a parallel loop")
        super().carve(buffer, size)

    def distributed(self, loop: Any) -> None:
        """A loop whose rounds are dealt out to tasks; its arrays lie in the task's scratch."""
        i, count = self.name(loop.loop_var), self.operand(loop.extent)
        self.used, self.shared = 0, False
        with self.braces(f"for (int32_t {i} = TASK_ID(); {i} < {count}; {i} += TASK_DIM())"):
            self.stmt(loop.body)
        self.peak, self.shared = max(self.peak, self.used), True

    # -- vectors --------------------------------------------------------------------------------

    def s_For(self, s: Any) -> None:
        lanes = getattr(s.extent, "value", None)
        vector = int(s.kind) == VECTORIZED and lanes is not None
        if vector and type(s.body).__name__ == "BufferStore":
            self.vector(s, int(lanes))
        else:
            self.serial(s)

    def vector(self, s: Any, lanes: int) -> None:
        """A loop over lanes with one store."""
        self.lane, self.lanes, self.element, self.free = s.loop_var, lanes, {}, {}
        target = self.name(s.body.buffer)
        with self.braces(""):
            value = self.lanes_of(s.body.value)
            start, step = self._along(s.body.indices)
            if step == 1:
                self.line(f"{self.word('dma_out')}({target} + {start}, {value}, {lanes});")
            else:
                at = self.at(s.body.indices, s.body.buffer.shape)
                with self.braces(self._each_lane()):
                    self.line(f"{target}[{at}] = {value}[{self.name(self.lane)}];")
        self.temporary_bytes = max(
            self.temporary_bytes, lanes * sum(map(width, self.element.values())))

    def word(self, operation: str, element: str = "") -> str:
        """The chip's word for a vector instruction on elements of a type."""
        return operation

    def lanes_of(self, e: Any) -> str:
        """The temporary that holds the expression for every lane."""
        kind = type(e).__name__
        if not self._varies(e):
            return self._make(e, "vec_dup", self.expr(e))
        if kind == "TensorLoad":
            return self._load(e)
        if kind in NAMES:
            return self._make(e, f"vec_{NAMES[kind]}", self.lanes_of(e.a), self.lanes_of(e.b))
        if kind == "Select":
            parts = (e.condition, e.true_value, e.false_value)
            return self._make(e, "vec_select", *map(self.lanes_of, parts))
        if kind == "Call":
            name = str(e.op.name).rpartition(".")[2]
            (argument,) = map(self.lanes_of, e.args)
            if name == "reinterpret":
                return self._make(e, "vec_bits", argument)
            function = self.calls.get(name) or self.refuse(f"the intrinsic {name}")
            return self._make(e, "vec_call", argument, function=function)
        if kind == "Cast":
            return self._make(e, "vec_cast", self.lanes_of(e.value))
        if kind == "Var":
            return self._make(e, "vec_iota")
        if kind == "Not":
            return self._make(e, "vec_not", self.lanes_of(e.a))
        return self.refuse(f"the TIR node {kind} in a vector loop")

    def _load(self, e: Any) -> str:
        source, t = self.name(e.source), self._temporary(dtype(e))
        start, step = self._along(e.indices)
        if step == 1:
            self.line(f"{self.word('dma_in')}({t}, {source} + {start}, {self.lanes});")
        elif step is not None and step > 1:
            self.line(f"{self.word('dma_strided')}({t}, {source} + {start}, {step}, "
                      f"{self.lanes});")
        else:
            with self.braces(self._each_lane()):
                at = self.at(e.indices, e.source.shape)
                self.line(f"{t}[{self.name(self.lane)}] = {source}[{at}];")
        return t

    def _along(self, indices: Any) -> tuple[str, int | None]:
        start, step = along(indices[0], self.lane)
        return (self.operand(start), step) if step is not None else ("", None)

    def _make(self, e: Any, word: str, *parts: str, function: str = "") -> str:
        for part in parts:  # each temporary is read once; an instruction may write where it reads
            if part in self.element:
                self.free.setdefault(self.element[part], []).append(part)
        t = self._temporary(dtype(e))
        arguments = [function] * bool(function) + [t, *parts, str(self.lanes)]
        self.line(f"{self.word(word, dtype(e))}({', '.join(arguments)});")
        return t

    def _temporary(self, element: str) -> str:
        if self.free.get(element):
            return self.free[element].pop()
        name = f"t{len(self.element)}"
        self.element[name] = element
        self.line(f"{self.ctype(element)} {name}[{self.lanes}];")
        return name

    def _varies(self, e: Any) -> bool:
        """Whether lanes differ in an expression."""
        if type(e).__name__ == "Var":
            return bool(e.same_as(self.lane))
        names = ("a", "b", "value", "condition", "true_value", "false_value")
        parts = [getattr(e, n) for n in names if hasattr(e, n)]
        parts += [*getattr(e, "args", ()), *getattr(e, "indices", ())]
        return any(self._varies(p) for p in parts if not isinstance(p, int | float | str))

    def _each_lane(self) -> str:
        lane = self.name(self.lane)
        return f"for (int32_t {lane} = 0; {lane} < {self.lanes}; ++{lane})"
