"""From plans to `program.json`: flat lists of kernel calls whose arguments are words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from firstlight.codegen.debug import DebugTable
from firstlight.codegen.regions import regions
from firstlight.codegen.select import KernelSet
from firstlight.codegen.signature import signature
from firstlight.codegen.target import Entry
from firstlight.ir.core import Module
from firstlight.ir.types import CODECS, StateType, TensorType
from firstlight.passes.plan_memory import Place, Plan, Step


@dataclass(frozen=True, order=True)
class Stored:
    """A weight in one packed layout ("" = as shipped): what an artifact holds."""

    weight: str
    layout: str = ""

    @property
    def name(self) -> str:
        """Name of the (codes) tensor in the weight file."""
        return f"{self.weight}@{self.layout}" if self.layout else self.weight

    @property
    def file(self) -> str:
        """The weight file: one for each layer, one for the rest."""
        head, _, rest = self.weight.partition(".")
        group = f"{head}.{rest.split('.')[0]}" if head == "layers" else "global"
        return f"weights/{group}.safetensors"


@dataclass
class ProgramWriter:
    """Collects the entries of one artifact."""

    kernels: KernelSet
    state_offsets: Mapping[str, int]
    constants: dict[str, Any] = field(default_factory=dict)
    stored: dict[Stored, None] = field(default_factory=dict)
    _pointers: dict[tuple[str, str], int] = field(default_factory=dict)
    _symbols: dict[str, int] = field(default_factory=dict)
    _signatures: list[list[Any]] = field(default_factory=list)
    _entries: dict[str, Any] = field(default_factory=dict)
    _debug: DebugTable = field(default_factory=DebugTable)
    arena_bytes: int = 0

    def add(self, name: str, plan: Plan, module: Module, tokens: int, inputs: Mapping[str, int],
            logits: int, every_row: bool, vocab: int) -> None:
        """Add an entry; offsets are arena bytes, `tokens` the most tokens of a call."""
        steps = [self._step(step, module, tokens) for step in plan.steps]
        self._debug.add(name, plan, self._word)
        self.constants.update(plan.constants)
        self.arena_bytes = max(self.arena_bytes, plan.arena_bytes)
        rows: int | str = ("S" if tokens > 1 else 1) if every_row else 1
        shapes: dict[str, list[int | str]] = {"tokens": ["S" if tokens > 1 else 1]}
        self._entries[name] = {
            "max_tokens": tokens,
            "inputs": {n: {"offset": o, "shape": shapes.get(n, [1])} for n, o in inputs.items()},
            "outputs": {"logits": {"offset": logits, "shape": [rows, vocab]}},
            "steps": steps,
        }

    def add_graph(self, name: str, plan: Plan, module: Module, most: int,
                  inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Add an entry that has named arrays instead of tokens: their places, shapes and dtypes."""
        steps = [self._step(step, module, most) for step in plan.steps]
        self._debug.add(name, plan, self._word)
        self.constants.update(plan.constants)
        self.arena_bytes = max(self.arena_bytes, plan.arena_bytes)
        self._entries[name] = {"max_tokens": most, "inputs": dict(inputs),
                               "outputs": dict(outputs), "steps": steps}

    def document(self) -> dict[str, Any]:
        """The content of program.json."""
        return {"schema": 1, "arena_bytes": self.arena_bytes, "kernels": list(self._symbols),
                "signatures": self._signatures, "weights": [list(p) for p in self._pointers],
                "entries": self._entries}

    def debug(self) -> dict[str, Any]:
        """The content of debug.json."""
        made = self.kernels.kernels
        return {**self._debug.document(),
                "regions": {name: regions(made[name].func) for name in self._symbols}}

    def _step(self, step: Step, module: Module, tokens: int) -> list[Any]:
        kernel = self.kernels.kernel(step.op, module, tokens)
        words: list[str] = []
        for place, value, layout in zip(step.operands, step.op.operands, kernel.layouts,
                                        strict=True):
            if place.kind in ("weight", "constant"):
                assert isinstance(value.type, TensorType)
                words += self._weight(place.name, value.type, layout or "")
            else:
                words.append(self._word(place))
        words += [self._word(place) for place, value in zip(step.results, step.op.results,
                                                            strict=True)
                  if not isinstance(value.type, StateType)]
        if kernel.name not in self._symbols:
            self._symbols[kernel.name] = len(self._symbols)
            self._signatures.append(signature(step.op, kernel, self.kernels.target.packer))
        return [self._symbols[kernel.name], [*words, "t"]]

    def _word(self, place: Place) -> str:
        if place.kind == "state":
            return f"s:{self.state_offsets[place.name]}"
        assert place.kind == "arena"
        return f"a:{place.offset}"

    def _weight(self, name: str, type_: TensorType, layout: str) -> list[str]:
        stored = Stored(name, layout)
        self.stored.setdefault(stored)
        form = CODECS.get(type_.codec)       # constants have none
        names = [stored.name, *([f"{stored.name}.scales"] if form and form.scales else [])]
        return [f"w:{self._pointers.setdefault((stored.file, n), len(self._pointers))}"
                for n in names]


def whole_program(entries: Sequence[Entry], vocab: int) -> dict[str, Any]:
    """The content of program.json where a launcher runs each entry as a whole: without steps.

    The arena is where such a launcher would put inputs and logits, if it used one.
    """
    places, base = {}, 0
    most = max(entry.tokens for entry in entries)
    for name, words in (("pos", 1), ("last", 1), ("tokens", most), ("logits", most * vocab)):
        places[name] = base
        base += -(-4 * words // 64) * 64
    document: dict[str, Any] = {"schema": 1, "arena_bytes": base, "kernels": [], "weights": [],
                                "entries": {}}
    for entry in entries:
        size: int | str = "S" if entry.tokens > 1 else 1
        document["entries"][entry.name] = {
            "max_tokens": entry.tokens, "steps": [],
            "inputs": {"tokens": {"offset": places["tokens"], "shape": [size]},
                       "pos": {"offset": places["pos"], "shape": [1]},
                       "last": {"offset": places["last"], "shape": [1]}},
            "outputs": {"logits": {"offset": places["logits"],
                                   "shape": [size if entry.every_row else 1, vocab]}},
        }
    return document
