"""Primitive ops, one file per family. Importing this package fills the op table."""

from firstlight.ir.ops import control, elementwise, linear, reduce, rounding, shape, state

__all__ = ["control", "elementwise", "linear", "reduce", "rounding", "shape", "state"]
