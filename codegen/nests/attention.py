"""Attention of a generic kernel as one step, which a target writes in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.effects import live
from firstlight.codegen.nests.nodes import Node, const, make
from firstlight.codegen.nests.program import Memory, Nest, Program, Step
from firstlight.ir.core import Module, Op
from firstlight.ir.types import StateType, TensorType

Q, KV, SINK, RING, SLOT, POS, ENTRIES, INDEX = 0, 1, 2, 4, 5, 6, 7, 8
"""Pointers of `hybrid_attention` by their place."""


@dataclass(frozen=True)
class Attention:
    """A step: buffer[S, H, c] = softmax of queries and keys, times the keys.

    Attributes:
        read: memories by what they are: "q", "kv", "sink", "ring", "slot", "pos", "window" (ring
            and kv as one: row j is the position pos - rows + j) and, if there are any, "entries"
            and "index".
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

    @property
    def moved(self) -> float:
        """Bytes of one token: its queries and result, the window, and entries that may be seen."""
        rows = self.rows + self.heads * 2
        if "entries" in self.read:
            rows += self.chosen or self.capacity
        return 4.0 * rows * self.width

    @property
    def capacity(self) -> int:
        """Entries of a sequence."""
        return self.read["entries"].shape[1].number or 0

    @property
    def nodes(self) -> list[Node]:
        """All that it reads, as loads."""
        return [load(memory, const(0)) for memory in self.read.values()]


@dataclass(frozen=True)
class Attentive(Kernel):
    """A generic kernel some of whose steps are attention: what is left of the op's meaning."""

    heads: int
    width: int
    rows: int
    scale: float
    chosen: int
    ratio: int

    def find(self, plain: Program) -> tuple[int, Attention] | None:
        """(place of its last step, attention), which reads everything that its op reads; None for a
        program whose steps are not as expected."""
        pointers = {m.pointer: m for m in plain.memories.values() if m.pointer is not None}
        window = next((s.buffer for s in plain.steps if _named(s, "concat")), None)
        at = next((i for i, s in enumerate(plain.steps) if _named(s, "div")), None)
        if window is None or at is None:
            return None
        read = {"q": pointers[Q], "kv": pointers[KV], "sink": pointers[SINK],
                "ring": pointers[RING], "pos": pointers[POS], "window": window,
                "slot": pointers[SLOT]}
        if ENTRIES in pointers and self.ratio:
            read["entries"] = pointers[ENTRIES]
            if self.chosen:
                read["index"] = pointers[INDEX]
        end = plain.steps[at]
        assert isinstance(end, Nest)
        return at, Attention(end.buffer, read, end.buffer.shape[1], self.heads, self.width,
                             self.rows, self.scale, self.chosen, self.ratio)


def attentive(symbol: str, op: Op) -> Attentive | None:
    """The generic kernel of a `hybrid_attention`; None where a size is not known."""
    from firstlight.codegen.generic import generic_kernel

    q, ring = op.operands[0].type, op.operands[4].type
    assert isinstance(q, TensorType)
    assert isinstance(ring, StateType)
    *_, heads, width = q.shape
    if not (isinstance(heads, int) and isinstance(width, int)):
        return None
    entries = op.operands[ENTRIES].type if len(op.operands) > ENTRIES else None
    index = op.operands[INDEX].type if len(op.operands) > INDEX else None
    chosen = index.shape[-1] if isinstance(index, TensorType) else 0
    ratio = entries.ratio if isinstance(entries, StateType) else 0
    kernel = generic_kernel(symbol, op, Module())
    return Attentive(kernel.name, kernel.func, kernel.layouts, heads, width, ring.rows,
                     float(op.attrs["scale"]), int(chosen), ratio)


def placed(plain: Program, step: Attention, before: Sequence[Step],
           after: Sequence[Step]) -> Program:
    """A program with a step of attention between others, and without what nothing reads then."""
    kept = live([*before, step, *after])
    gone = tuple(s for s in plain.steps if all(s is not k for k in kept))
    return replace(plain, steps=[replace(step, apart=gone) if s is step else s for s in kept])


def load(memory: Memory, index: Node) -> Node:
    """An element of a memory."""
    return make("load", memory.dtype, memory.name, index)


def _named(step: object, name: str) -> bool:
    return isinstance(step, Nest) and step.name == name
