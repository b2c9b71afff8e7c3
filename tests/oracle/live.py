"""Cases against transformers: draw a model, then hold a backend against it by every route.

A model is drawn again with the next seed if some expert or index choice is nearly a tie (below that
gap rounding decides, and two correct programs differ by a whole expert), or if it amplifies
rounding so much that transformers' own prefill and decode leave little of the tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from oracle.cases import Case
from oracle.hf import Gaps, Oracle

from support.backends import Backend, Differences, Model, compare
from support.random_models import (
    Stored,
    dequantise,
    random_tensors,
    token_ids,
    write_checkpoint,
)

MIN_GAP = 2e-5
MAX_ROUNDING = 1.5e-5
TOLERANCE = 2e-4
SELF_TOLERANCE = 5e-5
_ATTEMPTS = 40


@dataclass(frozen=True)
class Drawn:
    """A case with its weights: tensors to write, ids to read, transformers' answer."""

    case: Case
    seed: int
    tensors: dict[str, Stored]
    ids: list[int]
    oracle: Oracle
    gaps: Gaps
    logits: np.ndarray
    rounding: float  # largest difference between transformers' prefill and its decode

    def write(self, folder: Path) -> Path:
        """The case's checkpoint, in its naming scheme and number of shards."""
        case = self.case
        return write_checkpoint(folder, case.config, self.tensors, case.scheme, case.shards)


@lru_cache(maxsize=64)
def draw(case: Case) -> Drawn:
    """The first model from `case.seed` on that is fit for comparison; deterministic."""
    for seed in range(case.seed, case.seed + 1000 * _ATTEMPTS, 1000):
        tensors = random_tensors(case.config, seed, case.codecs, case.sink_shift)
        ids = token_ids(case.config, case.tokens, seed)
        oracle = Oracle(case.config, dequantise(tensors))
        gaps, logits = oracle.gaps(ids), oracle.logits(ids)
        rounding = float(np.abs(oracle.decode(ids) - logits).max())
        if case.tied or (min(gaps) >= MIN_GAP and rounding <= MAX_ROUNDING):
            return Drawn(case, seed, tensors, ids, oracle, gaps, logits, rounding)
    raise AssertionError(f"{case.name}: {_ATTEMPTS} seeds, and none fit for comparison")


def measure(model: Model, drawn: Drawn) -> Differences:
    """Every route through an open model against transformers.

    A tied case is compared with the model's own whole prefill in place of transformers.
    """
    tied, ids = drawn.case.tied, drawn.ids
    want = model.session().prefill(ids, all_logits=True) if tied else drawn.logits
    return compare(model, ids, want, drawn.case.config)


def check(backend: Backend, case: Case, folder: Path) -> Differences:
    """Draw `case`, open it on `backend` and measure; `folder` is scratch space."""
    drawn = draw(case)
    model = backend.open(drawn.write(folder / "checkpoint"), case.context, case.chunk)
    return measure(model, drawn)


def verdict(seen: Differences, case: Case) -> Sequence[str]:
    """What is wrong, as lines to print; empty if nothing is."""
    wrong = []
    if not seen.reference <= TOLERANCE:
        wrong.append(f"{case.name}: {seen.reference:.1e} off transformers ({seen.reference_route})")
    if not seen.itself <= SELF_TOLERANCE:
        wrong.append(f"{case.name}: {seen.itself:.1e} off itself ({seen.itself_route})")
    return wrong
