"""From a checkpoint (or only its config) to the IR module of the model."""

from __future__ import annotations

from firstlight.frontend.checkpoint import Checkpoint
from firstlight.frontend.models import MODELS
from firstlight.ir.core import Module
from firstlight.ir.types import TensorType


def weight_types(checkpoint: Checkpoint) -> dict[str, TensorType]:
    """IR types of all tensors of a checkpoint: logical shape, and how they are stored."""
    return {name: TensorType(ref.shape, "i32" if ref.codec in ("i64", "i32") else "f32", ref.codec)
            for name, ref in checkpoint.tensors.items()}


def trace_checkpoint(checkpoint: Checkpoint, numerics: str = "float") -> Module:
    """The module of a checkpoint's model, primitives only."""
    build = MODELS[checkpoint.config.model_type]
    return build(checkpoint.config, weight_types(checkpoint), numerics)
