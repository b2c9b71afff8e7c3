"""Attention as one kernel: products on the cube core, the softmax between them on vector cores."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests import attention
from firstlight.codegen.nests.attention import Attentive, attentive, placed
from firstlight.codegen.nests.program import Program
from firstlight.ir.core import Op
from firstlight.targets.ascend.attention_text import LEAST, UNIT, Blocks

if TYPE_CHECKING:
    from firstlight.targets.ascend.functions import Body


@dataclass(frozen=True)
class Attention(attention.Attention):
    """Attention that reads its window from one memory, the old rows before this call's own."""

    def write(self, body: Body) -> None:
        """Its function's body."""
        Blocks(self, body).write()


@dataclass(frozen=True)
class Fused(Attentive):
    """A generic kernel of which some steps are better one."""

    def fuse(self, plain: Program) -> Program | None:
        """The program with an attention step; None for one whose steps are not as expected."""
        found = self.find(plain)
        if found is None:
            return None
        at, whole = found
        if self.ratio and not self.chosen and whole.capacity < UNIT:        # less than one block
            return None
        names = ["q", "sink", "pos", "window"]
        names += ["slot", "entries"] * ("entries" in whole.read) + ["index"] * bool(self.chosen)
        own = {f.name: getattr(whole, f.name) for f in fields(whole)}
        read = {n: whole.read[n] for n in names}
        return placed(plain, Attention(**own | {"read": read}), plain.steps[:at],
                      plain.steps[at + 1:])


def hybrid_attention(symbol: str, op: Op, tokens: int) -> Kernel | None:
    """A fused kernel; None for heads that the cube core is not worth."""
    found = attentive(symbol, op)
    if found is None or found.width % UNIT or found.width < LEAST or found.rows < UNIT - 1:
        return None
    return Fused(**{f.name: getattr(found, f.name) for f in fields(found)})
