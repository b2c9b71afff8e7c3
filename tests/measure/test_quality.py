"""Quality: nothing is lost against itself, known losses are measured as such."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from firstlight.measure import quality
from firstlight.measure.quality import comparable, measure, read_ids, windows
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError


@pytest.fixture(scope="module")
def model(tiny_artifact: Path):
    with load(tiny_artifact, threads=1) as model:
        yield model


def test_against_itself_nothing_is_lost(model, tiny_folder: Path) -> None:
    sequences = read_ids(tiny_folder / "validation_tokens.json", model.vocab_size, list, 9999)
    expected = json.loads((tiny_folder / "expected.json").read_text())
    document = measure(model, model, sequences, window=64, tokens=300).document()
    assert document["tokens"] == 300 - 5, "the last token of each of five windows predicts nothing"
    assert document["kl_mean"] == document["kl_p99"] == document["cross_entropy_difference"] == 0
    assert document["top1_agreement"] == document["perplexity_ratio"] == 1
    assert 1 < document["cross_entropy"] < 5, expected.keys()
    layers = document["layers"]
    assert len(layers) == 6
    assert all(row["stream_error"] == 0 for row in layers.values())
    assert {row["router_agreement"] for row in layers.values()} == {1.0, None}, "hash layers: None"
    assert {row["index_recall"] for row in layers.values()} == {1.0, None}


def test_decisions_are_those_of_the_kernels_asked_for(model, monkeypatch) -> None:
    """One token a call chooses what a prompt chooses, by the entry for that."""
    fed = []

    class Watched(quality.Tracer):
        def feed(self, session, entry, ids):
            fed.append((entry, len(ids)))
            return super().feed(session, entry, ids)

    monkeypatch.setattr(quality, "Tracer", Watched)
    ids = np.random.default_rng(2).integers(0, model.vocab_size, 30).tolist()
    whole, single = (quality._decisions(model, ids, decode) for decode in (False, True))
    assert fed == [("prefill", 30)] + [("decode", 1)] * 30
    assert whole.keys() == single.keys()
    for (layer, name), values in whole.items():
        assert values.shape == single[layer, name].shape
        if name == "stream_error":
            np.testing.assert_allclose(values, single[layer, name], rtol=1e-3, atol=1e-3)
        else:
            assert quality._overlap(values, single[layer, name]) > 0.99


def test_a_reference_of_another_checkpoint_is_refused(model, monkeypatch) -> None:
    comparable(model, model)
    provenance = model.manifest.document["provenance"]
    other = SimpleNamespace(vocab_size=model.vocab_size, manifest=SimpleNamespace(
        directory="other", document={"provenance": provenance | {"shards": {"x": 1}}}))
    with pytest.raises(FirstlightError, match="different checkpoints"):
        comparable(model, other)


def fake(logits: np.ndarray, chunk: int = 16):
    """A model whose logits are given by position."""
    class Session:
        def __init__(self) -> None:
            self.at = 0

        def prefill(self, ids, all_logits):
            self.at += len(ids)
            return logits[self.at - len(ids) : self.at].astype(np.float32)

    return SimpleNamespace(vocab_size=logits.shape[1], session=Session,
                           manifest=SimpleNamespace(context=100, chunk=chunk,
                                                    directory="fake"))


def test_the_numbers_are_what_they_are_called(monkeypatch) -> None:
    """Against distributions worked out by scipy-like formulas on 130 tokens of 7 words."""
    monkeypatch.setattr(quality, "TRACED_WINDOWS", 0)
    random = np.random.default_rng(1)
    p, q = (random.standard_normal((90, 7)) for _ in range(2))
    ids = random.integers(0, 7, 90).tolist()
    document = measure(fake(q), fake(p), [ids], window=512, tokens=1000).document()

    def soft(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    P, Q, rows = soft(p)[:-1], soft(q)[:-1], np.arange(89)
    kl = (P * np.log(P / Q)).sum(-1)
    assert document["kl_mean"] == pytest.approx(kl.mean(), rel=1e-5)
    assert document["kl_p99"] == pytest.approx(np.quantile(kl, 0.99), rel=1e-5)
    ours, theirs = (-np.log(x[rows, ids[1:]]).mean() for x in (Q, P))
    assert document["cross_entropy"] == pytest.approx(ours, rel=1e-5)
    assert document["perplexity_ratio"] == pytest.approx(np.exp(ours - theirs), rel=1e-5)
    assert document["top1_agreement"] == (P.argmax(-1) == Q.argmax(-1)).mean()


def test_windows() -> None:
    assert list(windows([[1, 2, 3, 4, 5], [6], [7, 8]], 2, 99)) == [[1, 2], [3, 4], [7, 8]]
    assert list(windows([[1, 2, 3, 4, 5]], 4, 3)) == [[1, 2, 3]]
    assert list(windows([list(range(10))], 4, 7)) == [[0, 1, 2, 3], [4, 5, 6]]


def test_overlap_counts_sets() -> None:
    got = quality._overlap(np.array([[1, 2, 3, -1], [4, -1, -1, -1]]),
                           np.array([[3, 9, 1, -1], [4, 5, 6, 7]]))
    assert got == pytest.approx((2 / 3 + 1) / 2)
    assert quality._overlap(np.array([[-1]]), np.array([[3]])) == 1.0


@pytest.mark.parametrize(("name", "text"), [
    ("a.txt", ""), ("a.json", "{}"), ("a.json", "[1"), ("a.json", '{"sequences": [[1]]}'),
    ("a.json", '{"sequences": [["x", 1]]}'), ("a.json", '{"sequences": [[1e999, 2]]}'),
    ("a.json", '{"sequences": [[1.7, 2]]}'), ("a.json", '{"sequences": [[true, 2]]}'),
    ("a.json", '{"sequences": [["12", 2]]}'), ("a.json", "[" * 100_000), ("a.json", "[]"),
    ("missing", None)])
def test_what_is_no_text(model, tmp_path, name, text) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FirstlightError, match="F709"):
        read_ids(tmp_path / name, model.vocab_size, model.tokenizer.encode, 99)


def test_other_vocabulary(model) -> None:
    with pytest.raises(FirstlightError, match="F710"):
        comparable(model, fake(np.zeros((4, 7))))
