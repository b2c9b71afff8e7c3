"""The interpreter and the compiled artifact against logits recorded from transformers.

`make test` has no PyTorch; `make oracle` makes the same comparison live, on many more models.
"""

import pytest

from support.backends import ArtifactBackend, InterpreterBackend, compare
from support.golden import FOLDER, goldens

TOLERANCE = 2e-4
SELF_TOLERANCE = 5e-5
GOLDENS = goldens()
COMPILED = [golden for golden in GOLDENS if golden.name in ("flash", "pro", "odd_sides")]


def _holds(backend, golden, folder):
    checkpoint = golden.write(folder / "checkpoint")
    model = backend.open(checkpoint, context=len(golden.ids) + 8, chunk=16)
    seen = compare(model, golden.ids, golden.logits, golden.config)
    assert seen.reference <= TOLERANCE, seen
    assert seen.itself <= SELF_TOLERANCE, seen


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_interpreter(golden, tmp_path):
    """Whole prefill, chunkings, token by token."""
    _holds(InterpreterBackend(), golden, tmp_path)


@pytest.mark.parametrize("golden", COMPILED, ids=lambda golden: golden.name)
def test_artifact(golden, tmp_path):
    """The same routes through compiled code: both released patterns, and odd sides."""
    _holds(ArtifactBackend(tmp_path), golden, tmp_path)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_weights_are_still_the_recorded_ones(golden):
    """The generator is bit-stable: same tensors on every machine and numpy release."""
    golden.tensors()
    assert golden.logits.shape == (len(golden.ids), golden.config["vocab_size"])


def test_golden_vectors_are_small():
    """They are in the repository, and everybody clones them."""
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 2_000_000
