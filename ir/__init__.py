"""The intermediate representation: types, ops as rows of tables, text form, interpreter."""

from firstlight.ir import composites, ops
from firstlight.ir.core import Function, Module, Op, Value, census
from firstlight.ir.types import StateType, TensorType

__all__ = ["Function", "Module", "Op", "StateType", "TensorType", "Value", "census", "composites",
           "ops"]
