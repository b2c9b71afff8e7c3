"""Attention as one kernel: products on the cube core, the softmax between them on vector cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.nodes import Node, const
from firstlight.codegen.nests.program import Memory, Nest, Program, Step
from firstlight.ir.core import Module, Op
from firstlight.ir.types import StateType, TensorType
from firstlight.targets.ascend.attention_text import LEAST, UNIT, Blocks, load
from firstlight.targets.ascend.fuse import live

if TYPE_CHECKING:
    from firstlight.targets.ascend.functions import Body

POS, SINK, SLOT = 6, 2, 5
ENTRIES, INDEX = 7, 8
"""Pointers of `hybrid_attention` by their place."""


@dataclass(frozen=True)
class Attention:
    """A step: buffer[S, H, c] = softmax of queries and keys, times the keys.

    Attributes:
        read: memories by what they are: "q", "sink", "slot", "pos", "window" (row j is the position
            pos - rows + j) and, if there are any, "entries" and "index".
        chosen: entries of a token that have an index; 0 where all visible ones count.
        ratio: tokens of an entry.
        apart: the steps that do the same.
    """

    buffer: Memory
    read: dict[str, Memory]
    tokens: Node
    heads: int
    width: int
    rows: int
    scale: float
    chosen: int = 0
    ratio: int = 1
    name: str = "attention"
    apart: tuple[Step, ...] = ()

    def write(self, body: Body) -> None:
        """Its function's body."""
        Blocks(self, body).write()

    @property
    def moved(self) -> float:
        """Bytes of one token: its queries and result, the window, and entries that may be seen."""
        rows = self.rows + self.heads * 2
        if "entries" in self.read:
            rows += self.chosen or self.read["entries"].shape[1].number or 0
        return 4.0 * rows * self.width

    @property
    def nodes(self) -> list[Node]:
        """All that it reads, as loads."""
        return [load(memory, const(0)) for memory in self.read.values()]


@dataclass(frozen=True)
class Fused(Kernel):
    """A generic kernel of which some steps are better one: what is left of the op's meaning."""

    heads: int
    width: int
    rows: int
    scale: float
    chosen: int
    ratio: int

    def fuse(self, plain: Program) -> Program | None:
        """The program with an attention step; None for one whose steps are not as expected."""
        pointers = {m.pointer: m for m in plain.memories.values() if m.pointer is not None}
        window = next((s.buffer for s in plain.steps if _named(s, "concat")), None)
        at = next((i for i, s in enumerate(plain.steps) if _named(s, "div")), None)
        if window is None or at is None:
            return None
        if self.ratio and not self.chosen and \
                (pointers[ENTRIES].shape[1].number or 0) < UNIT:        # less than one block
            return None
        read = {"q": pointers[0], "sink": pointers[SINK], "pos": pointers[POS], "window": window}
        if ENTRIES in pointers and self.ratio:
            read |= {"slot": pointers[SLOT], "entries": pointers[ENTRIES]}
            read |= {"index": pointers[INDEX]} if self.chosen else {}
        end = plain.steps[at]
        assert isinstance(end, Nest)
        tokens = end.buffer.shape[1]
        step = Attention(end.buffer, read, tokens, self.heads, self.width, self.rows, self.scale,
                         self.chosen, self.ratio)
        kept = live([*plain.steps[:at], step, *plain.steps[at + 1:]])
        gone = tuple(s for s in plain.steps if all(s is not k for k in kept))
        kept = [replace(step, apart=gone) if s is step else s for s in kept]
        return replace(plain, steps=kept)


def hybrid_attention(symbol: str, op: Op, tokens: int) -> Kernel | None:
    """A fused kernel; None for heads that the cube core is not worth."""
    from firstlight.codegen.generic import generic_kernel

    q, ring = op.operands[0].type, op.operands[4].type
    assert isinstance(q, TensorType)
    assert isinstance(ring, StateType)
    *_, heads, width = q.shape
    entries = op.operands[7].type if len(op.operands) > ENTRIES else None
    index = op.operands[8].type if len(op.operands) > INDEX else None
    if not (isinstance(heads, int) and isinstance(width, int)) or width % UNIT or width < LEAST \
            or ring.rows < UNIT - 1:
        return None
    chosen = index.shape[-1] if isinstance(index, TensorType) else 0
    ratio = entries.ratio if isinstance(entries, StateType) else 0
    kernel = generic_kernel(symbol, op, Module())
    return Fused(kernel.name, kernel.func, kernel.layouts, heads, width, ring.rows,
                 float(op.attrs["scale"]), int(chosen), ratio)


def _named(step: object, name: str) -> bool:
    return isinstance(step, Nest) and step.name == name
