"""Golden vectors: logits recorded from transformers, compared without transformers.

`golden/index.json` holds what each model is made of, `golden/<name>.npz` the token ids and the
float32 logits. The weights are not stored: `random_models` makes them again, and their sha256 says
whether they are still the ones transformers saw. Recorded by `golden/make_golden.py`.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from support.random_models import Stored, digest, random_tensors, write_checkpoint

FOLDER = Path(__file__).parents[1] / "golden"
INDEX = FOLDER / "index.json"


@dataclass(frozen=True)
class Golden:
    """One recorded model: the arguments that make it again, and the digest of its tensors."""

    name: str
    config: dict[str, Any]
    seed: int
    codecs: str
    sink_shift: float
    scheme: str
    shards: int
    sha256: str

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{self.name}.npz") as file:
            return dict(file)

    @property
    def ids(self) -> list[int]:
        """The token ids that were read."""
        return self._arrays["ids"].tolist()

    @property
    def logits(self) -> np.ndarray:
        """transformers' answer, float32 [len(ids), vocab]."""
        return self._arrays["logits"]

    def tensors(self) -> dict[str, Stored]:
        """The weights, made again; AssertionError if they are not the recorded ones."""
        tensors = random_tensors(self.config, self.seed, self.codecs, self.sink_shift)
        found = digest(tensors)
        assert found == self.sha256, f"{self.name}: random_models has drifted, run make golden"
        return tensors

    def write(self, folder: Path) -> Path:
        """The model as a checkpoint folder."""
        return write_checkpoint(folder, self.config, self.tensors(), self.scheme, self.shards)


def goldens() -> list[Golden]:
    """Every recorded model, in the order of the index."""
    return [Golden(**entry) for entry in json.loads(INDEX.read_text())["models"]]
