"""A performance model of a fused module on a chip that nobody here has: every number is estimated.

Each op is one kernel. It takes as long as the slowest of what its pipes do at the same time: bytes
from memory (short rows at a lower rate), products, element-wise and cross-lane work; and a launch.
What a chip can do is data (`firstlight.codegen.rates`); what an op does comes from its types and
the op table's costs. A rate that nobody has published leaves its term out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from firstlight.codegen.rates import Product, Rates
from firstlight.ir import dims
from firstlight.ir.core import Module, Op
from firstlight.ir.registry import TABLE
from firstlight.ir.types import StateType, TensorType, Type

FREE = frozenset("reshape iota constant size slice concat transpose broadcast repeat gather_rows "
                 "add mul call".split())
"""No kernel of their own: views, and sums of positions."""
CHOSEN = frozenset({"expert_ffn", "expert_linear"})
"""Their stacked weights are read as far as tokens chose them."""
ACTIVATION = 2
"""Bytes of a value between kernels."""
STATES = {"f32": {"rows": 4.0, "keys": 4.0}, "released": {"rows": 584 / 512, "keys": 68 / 128}}
"""Bytes of an element of kept rows, and of index keys, by the name of a format."""
DISPATCH = 1.03 + 2
"""Bytes of a value sent to an expert (8 bits and scales) and back (16 bits)."""


@dataclass(frozen=True)
class Point:
    """What is asked for: `batch` sequences at `context`, `tokens` of each in a step, on `chips`.

    Attributes:
        accepted: of the drafted tokens in a step, how many are kept; a step makes 1 + accepted.
        state: a key of `STATES`.
    """

    context: int
    batch: int = 1
    tokens: int = 1
    chips: int = 1
    accepted: float = 0.0
    state: str = "released"

    @property
    def sizes(self) -> dict[str, int]:
        """Dimensions on one chip: sequences are dealt out."""
        return {"B": -(-self.batch // self.chips), "S": self.tokens, "C": self.context}


@dataclass
class Work:
    """What one kernel does.

    bytes     (bytes, bytes of a row)
    products  by kind of product, operations with rows filled up to tiles
    """

    bytes: list[tuple[float, float]] = field(default_factory=list)
    products: dict[str, float] = field(default_factory=dict)
    vector: float = 0.0
    registers: float = 0.0
    sent: float = 0.0

    def amounts(self) -> Iterator[tuple[str, float]]:
        """(what, how much) for sums over kernels."""
        yield "bytes", sum(n for n, _ in self.bytes)
        yield from ((f"{kind} operations", n) for kind, n in self.products.items())
        yield "vector operations", self.vector
        yield "registers across lanes", self.registers
        yield "sent bytes", self.sent


TERMS = ("memory", "product", "vector", "lanes", "sent", "launch")


@dataclass(frozen=True)
class Terms:
    """Seconds of each term; `total` is that of the slowest, a launch, and what is sent.

    `left_out` names the rates that are unknown and would be needed.
    """

    memory: float = 0.0
    product: float = 0.0
    vector: float = 0.0
    lanes: float = 0.0
    sent: float = 0.0
    launch: float = 0.0
    left_out: frozenset[str] = frozenset()

    @property
    def total(self) -> float:
        """Seconds of the kernel; at least, where something is left out."""
        return max(self.memory, self.product, self.vector + self.lanes) + self.sent + self.launch

    @property
    def bound(self) -> str:
        """The term that is longest."""
        return max(TERMS, key=lambda name: float(getattr(self, name)))


def terms(work: Work, rates: Rates) -> Terms:
    """Seconds of each term on a chip."""
    missing: set[str] = set()

    def over(name: str, amount: float, rate: float) -> float:
        if not amount:
            return 0.0
        if math.isnan(rate):
            missing.add(name)
            return 0.0
        return amount / rate

    seconds = {
        "memory": sum(over("memory", n, rates.memory * rates.share(row)) for n, row in work.bytes),
        "product": sum(over(kind, n, rates.products[kind]) for kind, n in work.products.items()),
        "vector": over("vector", work.vector, rates.vector),
        "lanes": over("lanes", work.registers, rates.lane_registers),
        "sent": over("link", work.sent, rates.link),
        "launch": 0.0 if math.isnan(rates.launch) else rates.launch,
    }
    if math.isnan(rates.launch):
        missing.add("launch")
    return Terms(**seconds, left_out=frozenset(missing))


class Estimator:
    """The kernels of a module's entry at one point, and the work of each."""

    def __init__(self, module: Module, rates: Rates | _Habits, point: Point) -> None:
        self.module, self.rates, self.point = module, rates, point

    def functions(self, entry: str) -> Iterator[tuple[str, int, list[tuple[str, Work]]]]:
        """(function, how often it is called, its kernels) for the entry and what it calls."""
        calls: dict[str, int] = {entry: 1}
        for op in self.module[entry].ops:
            if op.name == "call":
                name = str(op.attrs["callee"])
                calls[name] = calls.get(name, 0) + 1
        for name, count in calls.items():
            yield name, count, [(op.name, self.work(op)) for op in self.module[name].ops
                                if op.name not in FREE]

    def work(self, op: Op) -> Work:
        """What an op does on one chip."""
        sizes = self.point.sizes
        if op.name in CHOSEN:
            sizes = {**sizes, "B": self.point.batch}
        ins = [_concrete(v.type, sizes) for v in op.operands]
        outs = [_concrete(v.type, sizes) for v in op.results]
        cost = TABLE[op.name].cost
        assert cost is not None
        flops = cost(tuple(ins), tuple(outs), **op.attrs)
        work = Work()
        weights = [t for t in ins if isinstance(t, TensorType) and t.codec]
        matrices = [t for t in weights if t.rank >= 2]
        states = [t for t in ins if isinstance(t, StateType)]
        plain = [t for t in (*ins, *outs) if isinstance(t, TensorType) and not t.codec]
        part = 1.0 / self.point.chips if op.name in CHOSEN else 1.0
        work.bytes.append((part * ACTIVATION * sum(math.prod(map(int, t.shape)) for t in plain),
                           8192.0))
        if op.name == "embedding":
            rows = math.prod(map(int, outs[0].shape[:-1]))      # type: ignore[union-attr]
            work.bytes.append((rows * weights[0].nbytes() / int(weights[0].shape[0]), 8192.0))
            return work
        self._weights(work, op, matrices, flops, ins)
        work.bytes.append((sum(t.nbytes() for t in weights if t.rank < 2), 8192.0))
        if states:
            self._states(work, op, ins, flops)
        if not matrices and not states:
            work.vector += flops
        if op.name in ("rms_norm", "norm_rope", "hyper_pre", "route", "softmax"):
            rows = math.prod(map(int, ins[0].shape[:-1]))       # type: ignore[union-attr]
            work.registers += 2 * rows
        return work

    def _weights(self, work: Work, op: Op, matrices: Sequence[TensorType], flops: float,
                 ins: Sequence[Type]) -> None:
        """Bytes and products of matrices; of stacked ones, those that some token chose."""
        total = sum(math.prod(map(int, t.shape)) for t in matrices)
        for t in matrices:
            codec = next((c for c in self.rates.codecs if t.codec.startswith(c)), "")
            how = self.rates.codecs[codec]
            numbers = math.prod(map(int, t.shape))
            nbytes, rows = how.grow * t.nbytes(), self._rows(ins)
            if t.rank == 3 and op.name in CHOSEN:
                index = next(i for i in ins if isinstance(i, TensorType) and i.dtype == "i32")
                tokens, each = math.prod(map(int, index.shape[:-1])), int(index.shape[-1])
                experts = int(t.shape[0])
                touched = experts * (1 - (1 - each / experts) ** tokens)
                mine = touched / self.point.chips
                nbytes *= mine / experts
                rows = tokens * each / touched
                work.products[how.kind] = work.products.get(how.kind, 0.0) + (
                    2 * numbers / experts * mine * self._filled(rows))
                work.vector += how.unpack * numbers * mine / experts
            else:
                share_ = flops * numbers / total if op.name not in CHOSEN else (
                    2 * numbers * rows / self.point.chips)
                work.products[how.kind] = work.products.get(how.kind, 0.0) + (
                    share_ / rows * self._filled(rows))
                work.vector += how.unpack * numbers
            work.bytes.append((nbytes, 8192.0))
        if op.name in CHOSEN and self.point.chips > 1:
            x, index = ins[0], next(i for i in ins if isinstance(i, TensorType) and
                                    i.dtype == "i32")
            assert isinstance(x, TensorType)
            assert isinstance(index, TensorType)
            away = min(int(index.shape[-1]), self.point.chips) * (1 - 1 / self.point.chips)
            work.sent += DISPATCH * math.prod(map(int, x.shape)) / self.point.chips * away

    def _rows(self, ins: Sequence[Type]) -> float:
        x = ins[0]
        assert isinstance(x, TensorType)
        return float(math.prod(map(int, x.shape[:2])))

    def _filled(self, rows: float) -> float:
        return math.ceil(rows / self.rates.tile) * self.rates.tile

    def _states(self, work: Work, op: Op, ins: Sequence[Type], flops: float) -> None:
        """Rows that are read for each sequence, and products with them."""
        formats, batch = STATES[self.point.state], self.point.sizes["B"]
        tokens = self.point.tokens
        chosen = next((t for t in ins[1:] if isinstance(t, TensorType) and t.dtype == "i32"
                       and t.rank == 3), None)
        attends = op.name in ("hybrid_attention", "index_select")
        for t in (t for t in ins if isinstance(t, StateType)):
            element = formats["keys" if op.name == "index_select" else "rows"]
            rows = int(dims.evaluate(t.capacity, self.point.sizes))
            row = element * t.width
            if t.kind == "entries" and chosen is not None:
                rows = min(rows, int(chosen.shape[-1]) * tokens)
            elif t.kind == "entries" and attends:
                row = 8192.0                    # read in order, as one long row
            elif not attends:
                rows = min(rows, 2 * tokens)    # what a step adds
            work.bytes.append((batch * rows * element * t.width, row))
        if not attends:
            work.vector += flops
            return
        heads = int(ins[0].shape[-2])           # type: ignore[union-attr]
        kind = self.rates.codecs["state"].kind
        work.products[kind] = work.products.get(kind, 0.0) + (
            flops / heads * self._filled(heads))
        width = int(ins[0].shape[-1])           # type: ignore[union-attr]
        scores = flops / (4 if op.name == "hybrid_attention" else 2) / width
        work.vector += (6 if op.name == "hybrid_attention" else 3) * scores
        work.registers += scores / heads / self.rates.lanes * (
            2 * heads if op.name == "hybrid_attention" else 4)


@dataclass(frozen=True)
class _Habits:
    """What of a chip's rates decides the work: cards of one family have the same."""

    pairs: tuple[tuple[str, Product], ...]
    tile: int
    lanes: int

    @property
    def codecs(self) -> Mapping[str, Product]:
        return dict(self.pairs)


class _Same:
    """A module as a key: itself, whatever is in it."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def __hash__(self) -> int:
        return id(self.module)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.module is self.module


@functools.lru_cache(maxsize=64)
def _works(same: _Same, habits: _Habits, point: Point, entry: str
           ) -> list[tuple[str, int, list[tuple[str, Work]]]]:
    return list(Estimator(same.module, habits, point).functions(entry))


def _concrete(type_: Type, sizes: Mapping[str, int]) -> Type:
    if isinstance(type_, StateType):
        return replace(type_, rows=dims.evaluate(type_.capacity, sizes))
    return replace(type_, shape=tuple(dims.evaluate(d, sizes) for d in type_.shape))


def step(module: Module, rates: Rates, point: Point, entry: str = "score") -> dict[str, Any]:
    """One step of an entry: seconds, by function, by op and by term; every number estimated.

    Returns plain data: ``seconds``, ``tokens_per_second`` (of one chip; None if no term is known),
    ``functions`` (calls, seconds of a call), ``ops`` (seconds of all), ``terms`` (seconds if they
    were all there is), ``work`` (what there is to do, whatever the chip), ``kernels``, ``left_out``
    (rates that are unknown: seconds are at least, tokens a second at most) and ``room`` (share of
    the chip's memory that weights and state take).
    """
    functions: dict[str, dict[str, float]] = {}
    ops: dict[str, float] = {}
    sums = dict.fromkeys(TERMS, 0.0)
    done: dict[str, float] = {}
    left_out: set[str] = set()
    habits = _Habits(tuple(rates.codecs.items()), rates.tile, rates.lanes)
    seconds = kernels = 0.0
    for name, count, works in _works(_Same(module), habits, point, entry):
        some = [(op, work, terms(work, rates)) for op, work in works]
        each = sum(t.total for _, _, t in some)
        functions[name] = {"calls": count, "seconds": each, "kernels": len(some)}
        seconds, kernels = seconds + count * each, kernels + count * len(some)
        for op, work, t in some:
            ops[op] = ops.get(op, 0.0) + count * t.total
            left_out |= t.left_out
            for term in TERMS:
                sums[term] += count * float(getattr(t, term))
            for what, amount in work.amounts():
                done[what] = done.get(what, 0.0) + count * amount
    made = point.batch * (1 + point.accepted if entry != "prefill" else point.tokens)
    return {
        "rates": rates.name, "seconds": seconds, "kernels": int(kernels),
        "tokens_per_second": made / seconds / point.chips if seconds else None,
        "seconds_per_token": seconds / (1 + point.accepted),
        "functions": functions, "terms": sums, "work": done, "left_out": sorted(left_out),
        "ops": dict(sorted(ops.items(), key=lambda pair: -pair[1])),
        "room": None if math.isnan(rates.room) else _bytes(module, point) / rates.room,
    }


def _bytes(module: Module, point: Point) -> float:
    """Weights and state on one chip: experts are dealt out, the rest is on each."""
    total = 0.0
    for value in module["score"].args:
        if isinstance(value.type, StateType):
            rows = dims.evaluate(value.type.capacity, point.sizes)
            total += point.sizes["B"] * rows * value.type.width * STATES[point.state]["rows"]
        elif value.type.codec:
            total += value.type.nbytes() / (point.chips if value.type.rank == 3 else 1)
    return total


def prefill(module: Module, rates: Rates, point: Point, chunk: int, samples: int = 8
            ) -> dict[str, Any]:
    """Prefill of `point.context` tokens in chunks: seconds, and tokens a second of one chip."""
    chunks = -(-point.context // chunk)
    seconds, left_out = 0.0, list[str]()
    for i in range(min(samples, chunks)):
        at = min(point.context, chunk * (1 + (2 * i + 1) * chunks // (2 * min(samples, chunks))))
        one = replace(point, tokens=min(chunk, point.context), context=at)
        made = step(module, rates, one, "prefill")
        seconds, left_out = seconds + float(made["seconds"]), made["left_out"]
    seconds *= chunks / min(samples, chunks)
    return {"rates": rates.name, "seconds": seconds, "chunk": chunk,
            "left_out": left_out,
            "tokens_per_second": point.batch * point.context / seconds / point.chips
            if seconds else None}
