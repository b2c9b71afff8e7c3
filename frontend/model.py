"""From a checkpoint (or only its config) to the IR module of the model."""

from __future__ import annotations

from firstlight.frontend.checkpoint import Checkpoint, expected_tensors
from firstlight.frontend.config import ModelConfig
from firstlight.frontend.models import MODELS
from firstlight.ir.core import Module
from firstlight.ir.types import TensorType


def weight_types(checkpoint: Checkpoint) -> dict[str, TensorType]:
    """IR types of all tensors of a checkpoint: logical shape, and how they are stored."""
    return {name: TensorType(ref.shape, "i32" if ref.codec in ("i64", "i32") else "f32", ref.codec)
            for name, ref in checkpoint.tensors.items()}


def config_types(config: ModelConfig) -> dict[str, TensorType]:
    """The same from the config alone, with the codecs of the released checkpoints."""
    return {name: TensorType(e.shape, "i32" if e.codec in ("i64", "i32") else "f32", e.codec)
            for name, e in expected_tensors(config).items()}


def trace_model(config: ModelConfig, types: dict[str, TensorType],
                numerics: str = "float") -> Module:
    """The module of a model, primitives only."""
    return MODELS[config.model_type](config, types, numerics)
