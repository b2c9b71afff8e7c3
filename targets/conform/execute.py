"""Running a unit's kernels on arrays, as a planned program would: states in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from firstlight.codegen.target import Executor, Packer
from firstlight.ir import dims
from firstlight.ir.core import Op, Value
from firstlight.ir.registry import TABLE
from firstlight.ir.rows import decode
from firstlight.ir.types import StateType, TensorType
from firstlight.targets.conform.data import DTYPES, Array, Operand
from firstlight.targets.conform.measure import Memory
from firstlight.targets.conform.units import Unit


class Run:
    """One call of a unit.

    over: the first result lies over the operand that the kernel says (`Kernel.in_place`).

    Attributes:
        results: the arrays of the unit's results after the call.
        problems: what was written that should not be.
    """

    def __init__(self, executor: Executor, packer: Packer | None, unit: Unit,
                 operands: Sequence[Operand], sizes: Mapping[str, int], over: bool = False
                 ) -> None:  # fmt: skip
        self.packer, self.sizes = packer, sizes
        self.operands = dict(zip(unit.main.args, operands, strict=True))
        self.memory: dict[Value, Memory] = {}
        self.packed: dict[tuple[Value, str], list[Memory]] = {}
        written: set[Value] = set()
        for op, kernel in zip(unit.main.ops[-len(unit.kernels):], unit.kernels, strict=True):
            buffers = [m.array for value, layout in zip(op.operands, kernel.layouts, strict=True)
                       for m in self._pointers(value, layout or "")]
            buffers += self._results(op, written, kernel.in_place if over else None)
            executor.run(kernel.name, buffers, sizes["S"])
        self.results = [self._values(value) for value in unit.main.results]
        self.problems = self._problems(unit, written)

    def _values(self, value: Value) -> Array:
        array, type_ = self.memory[value].array, value.type
        coded = isinstance(type_, StateType) and type_.codec != "f32"
        return decode(array, type_.width, type_.codec) if coded else array

    def _pointers(self, value: Value, layout: str) -> list[Memory]:
        operand = self.operands.get(value)
        state = isinstance(value.type, StateType)
        if operand is None or state or (operand.codes is None and not layout):
            if value not in self.memory:
                assert operand is not None
                self.memory[value] = Memory(operand.stored[0])
            return [self.memory[value]]
        if (value, layout) not in self.packed:
            codes = operand.value if operand.codes is None else operand.codes
            scales = operand.scales
            if layout:
                assert self.packer is not None, f"a layout {layout} without a packer"
                assert isinstance(value.type, TensorType)
                codes, scales = self.packer.pack(layout, codes, scales, value.type.codec or "f32",
                                                 operand.value.shape)
            self.packed[value, layout] = [Memory(a) for a in (codes, scales) if a is not None]
        return self.packed[value, layout]

    def _results(self, op: Op, written: set[Value], place: int | None) -> list[Array]:
        """Room for the results of an op; a state result has its operand's memory, and the first
        result that of operand `place`, if given."""
        states = [v for v in op.operands if isinstance(v.type, StateType)]
        new = []
        for value in op.results:
            if isinstance(value.type, StateType):
                self.memory[value] = self.memory[states[0]]
                written |= {value, states.pop(0)}
            elif place is not None and value is op.results[0]:
                self.memory[value] = self.memory[op.operands[place]]
                written |= {value, op.operands[place]}
                new.append(self.memory[value].array)
            else:
                shape = tuple(dims.evaluate(d, self.sizes) for d in value.type.shape)
                self.memory[value] = Memory(np.full(shape, 77, DTYPES[value.type.dtype]))
                written.add(value)
                new.append(self.memory[value].array)
        return new

    def _problems(self, unit: Unit, written: set[Value]) -> list[str]:
        names = dict(zip(unit.main.args, TABLE[unit.op].bind(len(unit.main.args)), strict=True))
        found = [m.problem(names.get(v, "a result"), v in written) for v, m in self.memory.items()]
        found += [m.problem(names.get(v, "a weight"), False)
                  for (v, _), some in self.packed.items() for m in some]
        return [text for text in found if text]
