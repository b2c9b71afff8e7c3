"""Generation: greedy, sampled, stopped, interrupted."""

import signal
import threading
import time
from itertools import islice

import numpy as np
import pytest

from firstlight.runtime import FirstlightError, Model, load
from firstlight.runtime.sampling import Sampler, Sampling, largest
from support.fake_artifact import SLEEP, expected_logits, write_fake_artifact

PROMPT = [3, 5, 7]


def greedy(n: int) -> list[int]:
    ids = list(PROMPT)
    for _ in range(n):
        ids.append(int(expected_logits(ids)[-1].argmax()))
    return ids[len(PROMPT) :]


def code_of(call, *args, **kwargs) -> str:
    with pytest.raises(FirstlightError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def test_greedy(model: Model):
    s = model.session()
    tokens = list(s.generate(PROMPT, 12))
    assert tokens == greedy(12)
    assert len(set(tokens)) > 4
    assert all(type(t) is int for t in tokens)
    assert s.position == len(PROMPT) + 11  # the last one was not fed
    more = list(s.generate([tokens[-1]], 5))
    assert tokens + more == greedy(17)
    assert list(model.session().generate(PROMPT, 0)) == []


def test_nothing_runs_before_the_first_token_is_asked_for(model: Model):
    s = model.session()
    tokens = s.generate(PROMPT, 3)
    assert s.position == 0
    next(tokens)
    assert s.position == 3


def test_ends_after_an_eos_id(tmp_path):
    want = greedy(12)
    eos = want[3]
    with load(write_fake_artifact(tmp_path / "a", eos=[eos, 25]), threads=1) as model:
        assert list(model.session().generate(PROMPT, 12)) == want[: want.index(eos) + 1]
        assert list(model.session().generate(PROMPT, 12, ignore_eos=True)) == want


def test_ends_after_a_stop_token_or_string(model: Model):
    want = greedy(12)
    text = model.tokenizer.decode(want)
    for stop in (want[5], [want[5]], [want[5], "zzz"], np.int64(want[5])):
        assert (
            list(model.session().generate(PROMPT, 12, stop=stop)) == want[: want.index(want[5]) + 1]
        )
    for stop in (text[4], text[3:6], [text[3:6], "zzz"]):
        needle = stop[0] if isinstance(stop, list) else stop
        got = list(model.session().generate(PROMPT, 12, stop=stop))
        end = text.index(needle) + len(needle)
        assert model.tokenizer.decode(got) == text[:end]
    assert list(model.session().generate(PROMPT, 12, stop="never")) == want
    assert list(model.session().generate(PROMPT, 12, stop=[])) == want


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"max_new_tokens": -1}, "F603"),
        ({"max_new_tokens": 2.0}, "F603"),
        ({"max_new_tokens": True}, "F603"),
        ({"stop": ""}, "F603"),
        ({"stop": [1.5]}, "F603"),
        ({"stop": -1}, "F605"),
        ({"temperature": -0.1}, "F620"),
        ({"temperature": float("nan")}, "F620"),
        ({"temperature": float("inf")}, "F620"),
        ({"temperature": "hot"}, "F620"),
        ({"top_k": 0}, "F620"),
        ({"top_k": 1.5}, "F620"),
        ({"top_p": 0.0}, "F620"),
        ({"top_p": 1.01}, "F620"),
        ({"seed": -1}, "F620"),
        ({"seed": 0.5}, "F620"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(model: Model, wrong, code):
    s = model.session()
    assert code_of(s.generate, PROMPT, **{"max_new_tokens": 4, **wrong}) == code
    assert list(s.generate(PROMPT, 3)) == greedy(3)


def test_the_context_ends_generation_with_an_error(model: Model):
    s = model.session()
    assert code_of(s.generate, [1] * (model.context + 1), 1) == "F607"
    s.prefill([1] * (model.context - len(PROMPT) - 2))
    got = []
    with pytest.raises(FirstlightError, match="F607"):
        got.extend(s.generate(PROMPT, 10))  # extend keeps what came before the error
    assert len(got) == 3
    assert s.position == model.context


def test_feeding_the_session_between_two_tokens_is_noticed(model: Model):
    s = model.session()
    tokens = s.generate(PROMPT, 5)
    next(tokens)
    s.decode(1)
    with pytest.raises(FirstlightError, match="F609"):
        next(tokens)
    s.decode(2)


def test_a_generator_may_be_dropped(model: Model):
    s = model.session()
    head = list(islice(s.generate(PROMPT, 12), 4))
    assert head == greedy(4)
    assert list(s.generate([head[-1]], 8)) == greedy(12)[4:]


@pytest.mark.parametrize("delay", [0.1, 0.5])  # in the prefill, between two tokens
def test_ctrl_c_leaves_a_usable_session(model: Model, delay: float):
    s = model.session()
    main = threading.main_thread().ident
    timer = threading.Timer(delay, lambda: signal.pthread_kill(main, signal.SIGINT))
    fed = [1, SLEEP, SLEEP, 2]

    def take_slowly() -> None:
        for token in s.generate(list(fed), 50, temperature=1.0, seed=1):
            fed.append(token)
            time.sleep(0.05)

    timer.start()
    with pytest.raises(KeyboardInterrupt):
        take_slowly()
    timer.join()
    assert 4 <= s.position <= len(fed)
    fed = fed[: s.position]
    np.testing.assert_array_equal(s.prefill([3]), model.session().prefill([*fed, 3]))


def test_equal_seeds_draw_equal_tokens(model: Model):
    def draw(seed):
        return list(model.session().generate(PROMPT, 30, temperature=1.5, top_p=0.95, seed=seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


def logits_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def frequencies(sampling: Sampling, logits: np.ndarray, draws: int = 20000) -> np.ndarray:
    sampler = Sampler(sampling)
    return np.bincount([sampler(logits) for _ in range(draws)], minlength=len(logits)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("top_p", [None, 0.6])
def test_tokens_come_as_often_as_their_probability(temperature, top_k, top_p):
    logits = logits_of(8)
    p = np.exp(logits.astype(float) / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p:
        needed = int(np.argmax(np.cumsum(p[order]) >= top_p)) + 1
        p[order[needed:]] = 0
        p /= p.sum()
    got = frequencies(Sampling(temperature, top_k, top_p, seed=3), logits)
    assert (got[p == 0] == 0).all()
    # 20000 draws: five standard deviations
    assert (np.abs(got - p) <= 5 * np.sqrt(p * (1 - p) / 20000) + 1e-9).all()


def test_ties_go_to_the_lower_id():
    logits = np.array([0, 2, 1, 2, 2, -1], np.float32)
    assert Sampler(Sampling())(logits) == 1
    assert largest(logits, 2).tolist() == [1, 3]
    assert largest(logits, 4).tolist() == [1, 3, 4, 2]
    assert largest(logits, 99).tolist() == [1, 3, 4, 2, 0, 5]
    seen = frequencies(Sampling(1.0, top_k=2, seed=0), logits, 500)
    assert set(np.flatnonzero(seen)) == {1, 3}


def test_top_p_beyond_the_first_candidates():
    flat = np.zeros(5000, np.float32)
    got = frequencies(Sampling(1.0, top_p=0.5, seed=0), flat, 3000)
    assert np.flatnonzero(got).max() < 2500
    assert np.count_nonzero(got) > 1000


def test_extremes():
    hot = np.array([0, 1e30, -1e30, 5], np.float32)
    assert Sampler(Sampling(1e-6, seed=0))(hot) == 1
    assert Sampler(Sampling(1e6, top_k=1, seed=0))(hot) == 1
    masked = np.array([-np.inf, 0, -np.inf], np.float32)
    assert Sampler(Sampling(1.0, top_p=0.9, seed=0))(masked) == 1
    for bad in ([np.nan, 1], [1, np.nan], [np.inf, 0], [-np.inf, -np.inf]):
        for how in (Sampling(), Sampling(1.0, seed=0)):
            assert code_of(Sampler(how), np.array(bad, np.float32)) == "F621"
