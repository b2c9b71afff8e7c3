"""Which ops have a kernel of their own on chips of many threads, whatever the chip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from firstlight.passes.capabilities import Capabilities, Threads

if TYPE_CHECKING:
    from firstlight.codegen.kernel import Kernel
    from firstlight.codegen.target import Override
    from firstlight.ir.core import Op, Value

NATIVE = frozenset({"expert_ffn", "group_linear", "linear", "linears"})
"""The ops that `overrides` knows, known without TVM."""


def overrides(capabilities: Capabilities) -> Mapping[str, Override]:
    """Kernels for a chip with these threads and this much group memory (space `shared`)."""
    from firstlight.codegen.simt import experts, products
    from firstlight.codegen.simt.weights import Weight

    threads = capabilities.threads or Threads()
    room = next((space.bytes for space in capabilities.memory if space.name == "shared"), 0)

    def weight(value: Value) -> Weight:
        kind = value.type
        *count, n, k = kind.shape
        return Weight(kind.codec or kind.dtype, count[0] if count else 1, n, k)

    def most(op: Op, tokens: int) -> int:
        count = op.operands[0].type.shape[1]
        return count if isinstance(count, int) else tokens

    def linears(name: str, op: Op, tokens: int) -> Kernel | None:
        x, *ws = op.operands
        weights = [weight(w) for w in ws]
        if len(x.type.shape) != 3 or not all(w.fits for w in weights):
            return None
        return products.linears(name, weights, 1, most(op, tokens), threads, room)

    def group_linear(name: str, op: Op, tokens: int) -> Kernel | None:
        x, w = op.operands
        one = weight(w)
        if not one.fits:
            return None
        return products.linears(name, [one], x.type.shape[2], most(op, tokens), threads, room)

    def expert_ffn(name: str, op: Op, tokens: int) -> Kernel | None:
        _, index, _, *ws = op.operands
        weights = [weight(w) for w in ws]
        if not all(w.fits for w in weights):
            return None
        return experts.expert_ffn(name, weights, index.type.shape[2], float(op.attrs["limit"]),
                                  threads, room)

    return {"linear": linears, "linears": linears, "group_linear": group_linear,
            "expert_ffn": expert_ffn}
