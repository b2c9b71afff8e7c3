"""Composite ops: a numpy reference, and a decomposition that is their meaning and their pattern."""

from firstlight.ir.composites import (
    attention,
    compress,
    hyper,
    index,
    linears,
    moe,
    norm_rope,
    round_rows,
)

__all__ = ["attention", "compress", "hyper", "index", "linears", "moe", "norm_rope",
           "round_rows"]
