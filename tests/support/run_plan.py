"""Executing a memory plan with numpy: every value lives in one byte arena, as in an artifact."""

from collections.abc import Mapping

import numpy as np

from firstlight.ir import dims, interpreter
from firstlight.ir.core import Module, Value
from firstlight.ir.types import StateType
from firstlight.passes.plan_memory import Place, Plan

DTYPES = {"f32": np.float32, "i32": np.int32, "bool": np.bool_}


def run_plan(plan: Plan, module: Module, weights: Mapping[str, np.ndarray],
             states: dict[str, np.ndarray], inputs: Mapping[int, np.ndarray],
             sizes: Mapping[str, int], poison: int = 0xAB) -> np.ndarray:
    """The arena after all steps; `inputs` are arrays by arena offset, `states` change in place.

    The arena starts poisoned, so reading a byte that no step wrote shows.
    """
    arena = np.full(plan.arena_bytes, poison, np.uint8)
    for offset, array in inputs.items():
        arena[offset:offset + array.nbytes] = array.view(np.uint8).reshape(-1)
    run = interpreter.Interpreter(module, sizes)

    def read(place: Place, value: Value) -> np.ndarray:
        if place.kind == "state":
            return states[place.name]
        if place.kind == "constant":
            return plan.constants[place.name]
        if place.kind == "weight":
            return weights[place.name].reshape(shape(value))
        dtype = np.dtype(DTYPES[value.type.dtype])
        size = int(np.prod(shape(value))) * dtype.itemsize
        return arena[place.offset:place.offset + size].view(dtype).reshape(shape(value)).copy()

    def shape(value: Value) -> tuple[int, ...]:
        return tuple(dims.evaluate(d, sizes) for d in value.type.shape)

    for step in plan.steps:
        args = [read(p, v) for p, v in zip(step.operands, step.op.operands, strict=True)]
        for place, value, array in zip(step.results, step.op.results, run.op(step.op, args),
                                       strict=True):
            if isinstance(value.type, StateType):
                states[place.name] = array
            else:
                data = np.ascontiguousarray(array, DTYPES[value.type.dtype])
                arena[place.offset:place.offset + data.nbytes] = data.view(np.uint8).reshape(-1)
    return arena
