"""The trained example: its artifact says what transformers said about the checkpoint.

`expected.json` was recorded from transformers in float32 when the model was trained; the smallest
greedy lead in it is 0.015, so the continuations have to be reproduced exactly.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.runtime import load

TOLERANCE = 2e-4
SELF_TOLERANCE = 5e-5
EXPECTED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "examples" / "tiny-v4" / "expected.json").read_text()
)
PROMPTS = EXPECTED["prompts"]
each_prompt = pytest.mark.parametrize("prompt", PROMPTS, ids=["code", "prose", "long"])


@pytest.fixture(scope="module")
def model(tiny_artifact: Path) -> Iterator[Any]:
    """The artifact, loaded on one thread."""
    with load(tiny_artifact, threads=1) as model:
        yield model


@each_prompt
def test_greedy_continuation(model, prompt):
    """48 tokens after the prompt, as `generate` gives them."""
    ids = model.session().generate(prompt["prompt_ids"], max_new_tokens=48, ignore_eos=True)
    assert list(ids) == prompt["greedy_ids"]


@each_prompt
def test_last_position_top5(model, prompt):
    """The five best logits after the prompt: their ids, order and values."""
    logits, best = model.session().prefill(prompt["prompt_ids"]), prompt["last_position_top5"]
    assert np.argsort(-logits, kind="stable")[:5].tolist() == best["ids"]
    assert np.abs(logits[best["ids"]] - best["logits"]).max() <= TOLERANCE


@each_prompt
def test_every_route_agrees(model, prompt):
    """Prefill, chunks of 7 and decode give the same logits, across a ring that has wrapped."""
    ids = prompt["prompt_ids"] + prompt["greedy_ids"]
    whole = model.session().prefill(ids, all_logits=True)
    session = model.session()
    chunks = [session.prefill(ids[i : i + 7], all_logits=True) for i in range(0, len(ids), 7)]
    session = model.session()
    steps = [session.prefill(ids[:1]), *(session.decode(token) for token in ids[1:])]
    assert np.abs(np.concatenate(chunks) - whole).max() <= SELF_TOLERANCE
    assert np.abs(np.stack(steps) - whole).max() <= SELF_TOLERANCE


@pytest.mark.parametrize("cut", [1, 31, 32, 65, 203])
def test_saved_and_forked_sessions_go_on_bit_for_bit(model, tmp_path, cut):
    """Cuts at the start, inside and at the end of a block, and with the window ring full."""
    ids = PROMPTS[2]["prompt_ids"]
    session = model.session()
    session.prefill(ids[:cut])
    session.save(tmp_path / "session")
    answers = []
    for one in (session.fork(), model.restore(tmp_path / "session"), session):
        first = one.decode(ids[cut])
        answers.append(np.vstack((first[None], one.prefill(ids[cut + 1 :], all_logits=True))))
    assert np.array_equal(answers[0], answers[2])
    assert np.array_equal(answers[1], answers[2])


def test_validation_loss(model, tiny_folder):
    """Mean nats per predicted token of four rows of held-out text."""
    _check_loss(model, tiny_folder)


def _check_loss(model, tiny_folder) -> None:
    rule = EXPECTED["validation"]
    rows = json.loads((tiny_folder / rule["file"]).read_text())["sequences"]
    losses = [_nats(model.session().prefill(row[:-1], all_logits=True), row[1:]) for row in rows]
    loss = np.concatenate(losses)
    assert len(loss) == rule["predicted_tokens"]
    assert loss.mean() == pytest.approx(rule["cross_entropy_nats_per_token"], abs=1e-4)


def _nats(logits: np.ndarray, targets: list[int]) -> np.ndarray:
    """Cross-entropy of each row of `logits` [n, vocab] at its target, float64 [n]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.log(np.exp(wide).sum(-1)) - wide[np.arange(len(targets)), targets]


@pytest.mark.parametrize("prompt", PROMPTS[:2], ids=["code", "prose"])
def test_tokenizer_comes_along(model, prompt):
    """The artifact's tokenizer gives the recorded ids, and text back for the continuation."""
    assert model.tokenizer.encode(prompt["text"]) == prompt["prompt_ids"]
    assert model.tokenizer.decode(prompt["greedy_ids"]) == prompt["greedy_text"]


def test_generic_kernels_say_the_same(tiny_generic_artifact, tiny_folder):
    """`compile --kernels generic`: no override, same continuations, top five and loss."""
    with load(tiny_generic_artifact, threads=1) as model:
        _check_loss(model, tiny_folder)
        for prompt in PROMPTS:
            session, best = model.session(), prompt["last_position_top5"]
            logits = session.prefill(prompt["prompt_ids"])
            assert np.abs(logits[best["ids"]] - best["logits"]).max() <= TOLERANCE
            for token in prompt["greedy_ids"]:
                assert int(logits.argmax()) == token
                logits = session.decode(token)
