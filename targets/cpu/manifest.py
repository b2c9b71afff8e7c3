"""What the targets of the CPU family have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Executor, Override, Target, Tool
from firstlight.ir import dims
from firstlight.ir.core import Op
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, StateType, TensorType, row_codec
from firstlight.passes.capabilities import Capabilities
from firstlight.targets.cpu.code import Code
from firstlight.targets.cpu.packer import TilePacker
from firstlight.targets.cpu.toolchain import drivers

# The ops with a hand-written kernel: the keys of `overrides.FACTORIES`, known without TVM.
NATIVE = frozenset({
    "compress", "embedding", "expert_ffn", "group_linear", "hybrid_attention", "hyper_head",
    "hyper_mix", "hyper_post", "hyper_pre", "index_select", "linear", "linears", "norm_rope",
    "norm_rope_attention", "rms_norm", "rope", "route", "route_hash",
})


def cpu_target(
    name: str, summary: str, code: Code, lanes: int, requires: Mapping[str, Any],
    emulate: Callable[[Mapping[str, Kernel], Path], Executor | None],
    tools: Callable[[], Sequence[Tool]] = tuple, leave: Sequence[str] = (), exact: str = "",
    fast: str = "",
) -> Target:  # fmt: skip
    """A target of the family.

    Args:
        lanes: float32 in a vector of its hand-written kernels.
        tools: beside the C compiler.
        leave: codecs whose weights the hand-written kernels leave to the generic ones.
        exact, fast: how activations are prepared under numerics `float` and `fast`, by the names in
            `kernels.activations`; without a name there is no `fast`.
    """
    return Target(
        name=name, summary=summary, tier="A",
        capabilities=Capabilities(native=NATIVE, vector_bytes=4 * lanes,
                                  states=("f32", "bf16", "e4m3", "e2m1")),
        requires=requires, emit=code.emit, build=code.build, runner=code.runner, emulate=emulate,
        launcher="cpu", overrides=lambda: _hand_written(lanes, leave, exact),
        fast=(lambda: _hand_written(lanes, leave, fast)) if fast else None,
        packer=TilePacker(), tools=lambda: (_compiler(), *tools()), versions=_versions,
    )


def _hand_written(lanes: int, leave: Sequence[str], way: str) -> Mapping[str, Override]:
    from firstlight.targets.cpu.overrides import overrides

    def fitting(override: Override) -> Override:
        return lambda name, op, tokens: (
            None if _codecs(op) & set(leave) or _other_rows(op, tokens)
            else override(name, op, tokens))

    return {name: fitting(override) for name, override in overrides(lanes, way).items()}


WEIGHTS_LIKE = {"e4m3": BLOCK_FP8, "e2m1": GROUP_FP4}
"""Codes of states -> the weights that the same instructions decode."""

ONE_ROW = frozenset({"group_linear", "hyper_head", "hyper_pre", "linear", "linears"})
"""Ops whose kernels know that S tokens may have one row: the last one's."""


def _other_rows(op: Op, tokens: int) -> bool:
    """Whether the op has other rows than the S that its kernel would work on: one, or those of a
    compressor's blocks, where that is not fused."""
    kind = op.results[0].type
    if not isinstance(kind, TensorType) or kind.rank < 2 or kind.shape[1] in (dims.S, tokens):
        return False
    return kind.shape[1] != 1 or op.name not in ONE_ROW


def _codecs(op: Op) -> set[str]:
    """Codecs of weights, and for states those whose numbers are decoded the same way."""
    states = {WEIGHTS_LIKE.get(row_codec(v.type.codec).codes, "") for v in op.operands
              if isinstance(v.type, StateType)}
    return states | {v.type.codec for v in op.operands if isinstance(v.type, TensorType)}


def _versions() -> Mapping[str, str]:
    from firstlight.codegen.tvm_bridge import versions

    return versions()


def _compiler() -> Tool:
    found = drivers()
    where = " ".join(found[0]) if found else None
    return Tool("C compiler and linker", where, "pip install 'firstlight[compile]'")
