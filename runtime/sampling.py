"""From logits to the next token: greedy, temperature, top-k, top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from firstlight.runtime.errors import FirstlightError

_FEW = 1024
"""Candidates looked at first for top-p; they nearly always hold the wanted mass."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; wrong values raise F620.

    ``temperature`` 0 takes the largest logit (ties: the lowest id). Otherwise tokens are drawn
    from softmax(logits / temperature), kept to the ``top_k`` largest and then to the smallest set
    whose probability reaches ``top_p``. Equal seeds draw equal tokens from equal logits.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        t, p = self.temperature, self.top_p
        if not _is_real(t) or not 0 <= t < math.inf:
            raise _refused("temperature", t, "a number >= 0 (0: always the most likely token)")
        if self.top_k is not None and not (_is_integer(self.top_k) and self.top_k >= 1):
            raise _refused("top_k", self.top_k, "a whole number >= 1, or None for all tokens")
        if p is not None and not (_is_real(p) and 0 < p <= 1):
            raise _refused("top_p", p, "a number in (0, 1], or None")
        if self.seed is not None and not (_is_integer(self.seed) and self.seed >= 0):
            raise _refused("seed", self.seed, "a whole number >= 0, or None for a random one")


class Sampler:
    """Draws tokens one after the other as a ``Sampling`` says."""

    def __init__(self, sampling: Sampling) -> None:
        self._how = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token for logits [vocab]. Raises F621 if they are not finite numbers."""
        best = int(np.argmax(logits))  # a NaN, if there is one
        if not np.isfinite(logits[best]):
            raise FirstlightError(
                "F621",
                "the model produced logits that are not numbers",
                where=f"token id {best}: {logits[best]}",
                why="an overflow in the model, or damaged weights",
                try_="firstlight verify DIR",
            )
        if self._how.temperature == 0:
            return best
        ids, mass = self._candidates(logits)
        drawn = np.searchsorted(mass, self._random.random() * mass[-1], side="right")
        return int(ids[min(int(drawn), len(ids) - 1)])

    def _candidates(
        self, logits: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Ids that may be drawn and their cumulative probability (not normalised)."""
        k, p = self._how.top_k, self._how.top_p
        if k is None and p is None:
            return np.arange(len(logits)), np.cumsum(self._weights(logits, logits))
        ids = largest(logits, k or len(logits)) if p is None or k else largest(logits, _FEW)
        mass = np.cumsum(self._weights(logits[ids], logits))
        if p is None:
            return ids, mass
        total = mass[-1] if k else self._weights(logits, logits).sum()
        if mass[-1] < p * total:
            ids = largest(logits, len(logits))
            mass = np.cumsum(self._weights(logits[ids], logits))
        keep = int(np.searchsorted(mass, p * total)) + 1
        return ids[:keep], mass[:keep]

    def _weights(
        self, some: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """exp((x - max) / temperature) in float64."""
        with np.errstate(under="ignore"):
            return np.exp((some.astype(np.float64) - float(logits.max())) / self._how.temperature)


def largest(logits: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Ids of the k largest logits in descending order, ties to the lower id."""
    if k < len(logits):
        threshold = np.partition(logits, -k)[-k]
        ids = np.flatnonzero(logits >= threshold)
    else:
        ids = np.arange(len(logits))
    order = np.argsort(-logits[ids], kind="stable")
    return ids[order][:k]


def _is_real(value: object) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and type(value) is not bool


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and type(value) is not bool


def _refused(name: str, value: object, wanted: str) -> FirstlightError:
    return FirstlightError(
        "F620",
        f"{name}={value!r} cannot be used",
        where=f"generate({name}=...)",
        why=f"it must be {wanted}",
        try_="generate(ids, temperature=0.8, top_k=50, top_p=0.95, seed=1)",
    )
