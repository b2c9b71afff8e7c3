"""Sequences side by side: three positions in one call are three calls of one sequence each."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.frontend.interpret import InterpreterModel, InterpreterSession
from support.random_models import random_config, random_tensors, token_ids, write_checkpoint

TOLERANCE = 2e-5
PATTERNS = {"window": "ww", "csa": "cc", "hca": "hh", "flash": "wwchc", "pro": "hhchc"}
# window 7, ratios 4 and 8: prompts that end before, at and after a boundary of each
PROMPTS = [(1, 3, 4), (5, 7, 8), (6, 15, 16), (23, 31, 2)]
CONTEXT = 64


@pytest.fixture(scope="module", params=PATTERNS)
def model(request, tmp_path_factory) -> InterpreterModel:
    """A random model of each layer pattern (few Sinkhorn rounds: they are most of the time)."""
    config = random_config(11, layers=PATTERNS[request.param], csa=4, hca=8, sliding_window=7,
                           index_topk=3, num_hash_layers=1, hc_sinkhorn_iters=2)
    folder: Path = tmp_path_factory.mktemp(request.param) / "checkpoint"
    write_checkpoint(folder, config, random_tensors(config, 2))
    return InterpreterModel(folder, CONTEXT)


def texts(model: InterpreterModel, count: int = 3) -> list[list[int]]:
    """Different token ids for each sequence."""
    return [token_ids({"vocab_size": model.vocab_size}, CONTEXT, seed) for seed in range(count)]


def alone(model: InterpreterModel, text: list[int], pieces: list[int]) -> list[np.ndarray]:
    """Logits of one sequence by itself, piece by piece."""
    session, at, out = model.session(), 0, []
    for piece in pieces:
        out.append(session.prefill(text[at:at + piece], all_logits=True))
        at += piece
    return out


def prefilled(model: InterpreterModel, ids: list[list[int]],
              lengths: tuple[int, ...]) -> InterpreterSession:
    """A session whose sequences stand at `lengths`."""
    session = model.session(batch=len(lengths))
    for i, length in enumerate(lengths):
        session.step(np.array([ids[i][:length]]), [i])
    assert session.pos.tolist() == list(lengths)
    return session


@pytest.mark.parametrize("lengths", PROMPTS, ids=str)
def test_three_positions(model, lengths):
    """Prefilled to three lengths, then two decodes and a chunk of nine tokens together."""
    ids = texts(model)
    session = prefilled(model, ids, lengths)
    pieces = [1, 1, 9]
    want = [alone(model, text, [n, *pieces]) for text, n in zip(ids, lengths, strict=True)]
    for i, piece in enumerate(pieces, 1):
        tokens = [text[p:p + piece] for text, p in zip(ids, session.pos, strict=True)]
        got = session.step(np.array(tokens))
        for b in range(3):
            assert np.abs(got[b] - want[b][i]).max() <= TOLERANCE, f"sequence {b}, piece {i}"


def test_any_of_the_sequences_in_any_order(model):
    """Two of four, last first; those left out neither move nor change."""
    ids = texts(model, 4)
    session = prefilled(model, ids, (3, 8, 4, 15))
    before = {name: state.copy() for name, state in session.states.items()}
    got = session.step(np.array([ids[3][15:20], ids[1][8:13]]), [3, 1])
    assert session.pos.tolist() == [3, 13, 4, 20]
    for name, state in session.states.items():
        np.testing.assert_array_equal(state[[0, 2]], before[name][[0, 2]])
    for row, b, n in ((0, 3, 15), (1, 1, 8)):
        assert np.abs(got[row] - alone(model, ids[b], [n, 5])[1]).max() <= TOLERANCE
    rest = session.step(np.array([[text[p]] for text, p in zip(ids, session.pos, strict=True)]))
    for b, pieces in enumerate(([3, 1], [8, 5, 1], [4, 1], [15, 5, 1])):
        assert np.abs(rest[b] - alone(model, ids[b], pieces)[-1]).max() <= TOLERANCE


def test_one_long_call_is_many_short_ones(model):
    """Three sequences together: everything at once, token by token, in chunks of five."""
    ids = np.array([text[:19] for text in texts(model)])
    whole = model.session(3).step(ids)
    for size in (1, 5):
        session = model.session(3)
        parts = [session.step(ids[:, at:at + size]) for at in range(0, 19, size)]
        assert np.abs(np.concatenate(parts, 1) - whole).max() <= 5e-5


def test_prefill_and_decode_are_steps(model):
    """The interface of the runtime's sessions, for one sequence."""
    text = texts(model)[0]
    want = model.session().step(np.array([text[:12]]))[0]
    session = model.session()
    np.testing.assert_array_equal(session.prefill(text[:11]), session_rows(model, text[:11])[-1])
    assert np.abs(session.decode(text[11]) - want[-1]).max() <= TOLERANCE
    assert want.shape == (12, model.vocab_size)
    assert want.dtype == np.float32


def session_rows(model: InterpreterModel, ids: list[int]) -> np.ndarray:
    """All logits of a fresh prefill."""
    return model.session().prefill(ids, all_logits=True)
