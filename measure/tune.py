"""Which precision each role of a model can do without: measured one by one, then together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from firstlight.runtime.errors import FirstlightError

Mix = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Point:
    """A policy, what it takes, and what it costs: mean KL divergence in nats a token.

    bytes are those of the weights, state_bytes those of a sequence of the artifact's context.
    """

    policy: str
    bytes: int
    kl: float
    cross_entropy_difference: float = 0.0
    top1_agreement: float = 1.0
    state_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes of both."""
        return self.bytes + self.state_bytes


@dataclass(frozen=True)
class Tuning:
    """Every policy that was measured, in order, and the smallest one within the budget."""

    points: tuple[Point, ...]
    chosen: Point


def tune(measure: Callable[[str], Point], roles: Sequence[str], codecs: Sequence[str],
         budget: float) -> Tuning:
    """Choose a codec for each role.

    Each role is quantized alone, which gives its divergence and its bytes. Divergences are small
    and come from different weights, so that of a mix is predicted as their sum; mixes are compiled
    and measured from the smallest that should fit on, and the first that does is chosen.

    Args:
        measure: compiles a policy and measures it.
        budget: most nats of divergence.
    """
    base = measure("shipped")
    points, single = [base], dict[tuple[str, str], Point]()
    for role, codec in itertools.product(roles, codecs):
        point = measure(spelled(((role, codec),)))
        points.append(point)
        single[role, codec] = point
    for mix in _mixes(base, single, roles, codecs, budget):
        point = base if not mix else next(
            (p for p in points if p.policy == spelled(mix)), None) or measure(spelled(mix))
        if point not in points:
            points.append(point)
        if point.kl <= budget:
            return Tuning(tuple(points), point)
    raise AssertionError("the shipped weights diverge by nothing")


def _mixes(base: Point, single: Mapping[tuple[str, str], Point], roles: Sequence[str],
           codecs: Sequence[str], budget: float) -> Iterator[Mix]:
    """Mixes that save bytes and are predicted to fit, the smallest first; nothing at all last."""
    found = []
    for choice in itertools.product(("", *codecs), repeat=len(roles)):
        mix = tuple((r, c) for r, c in zip(roles, choice, strict=True) if c)
        kl = sum(single[m].kl for m in mix)
        saved = sum(base.size - single[m].size for m in mix)
        if kl <= budget and all(single[m].size < base.size for m in mix):
            found.append((-saved, kl, mix))
    yield from (mix for *_, mix in sorted(found))


def spelled(mix: Mix) -> str:
    """A policy as text."""
    return ",".join(f"{role}={codec}" for role, codec in mix) or "shipped"


def parse_budget(text: str) -> float:
    """``0.02nats`` or ``0.02``. Raises F711 for what is no positive number of nats."""
    try:
        value = float(text.strip().removesuffix("nats"))
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise FirstlightError("F711", f"{text!r} is no budget", where="--budget",
                              why="it is a positive number of nats per token",
                              try_="--budget 0.02nats")
    return value
