"""Sessions: feeding, limits, wrong calls, and that a session lives on after each."""

import threading
import time

import numpy as np
import pytest

from firstlight.runtime import FirstlightError, Model, load
from support.fake_artifact import (
    FAIL,
    FAIL_IN_WORKER,
    SLEEP,
    VOCAB,
    expected_logits,
    write_fake_artifact,
)

IDS = [3, 5, 7, 1, 2, 9, 11, 12, 4, 4, 20, 27, 0]


def refusal(call, *args, **kwargs) -> str:
    """The code of the error a call is refused with, its four lines checked."""
    with pytest.raises(FirstlightError) as caught:
        call(*args, **kwargs)
    lines = str(caught.value).splitlines()
    marks = ("error[F", "  --> ", "  because: ", "  try:     ")
    assert len(lines) == 4
    assert all(
        line.startswith(mark) and len(line) > len(mark)
        for line, mark in zip(lines, marks, strict=True)
    )
    return caught.value.code


def test_logits_are_the_models(model: Model):
    every = model.session().prefill(IDS, all_logits=True)
    assert every.dtype == np.float32
    assert every.shape == (len(IDS), VOCAB)
    np.testing.assert_allclose(every, expected_logits(IDS), atol=2e-5)
    last = model.session().prefill(IDS)
    assert last.shape == (VOCAB,)
    np.testing.assert_array_equal(last, every[-1])


@pytest.mark.parametrize("all_logits", [False, True])
def test_any_chunking_and_decode_agree(model: Model, all_logits: bool):
    whole = model.session().prefill(IDS, all_logits=True)
    for cut in range(1, len(IDS)):
        s = model.session()
        first = s.prefill(IDS[:cut], all_logits=all_logits)
        np.testing.assert_array_equal(first, whole[:cut] if all_logits else whole[cut - 1])
        second = s.prefill(IDS[cut:], all_logits=all_logits)
        np.testing.assert_array_equal(second, whole[cut:] if all_logits else whole[-1])
        assert s.position == len(IDS)
    s = model.session()
    rows = [s.prefill(IDS[:1]), *(s.decode(t) for t in IDS[1:])]
    np.testing.assert_array_equal(rows, whole)


@pytest.mark.parametrize("entries", [["decode"], ["prefill"], ["decode", "prefill"]])
def test_missing_entries_are_made_up_for(tmp_path, entries):
    with load(write_fake_artifact(tmp_path / "a", entries=entries)) as model:
        np.testing.assert_allclose(
            model.session().prefill(IDS), expected_logits(IDS)[-1], atol=2e-5
        )


@pytest.mark.parametrize("dtype", "bBhHiIlLqQ")
def test_integer_arrays_of_all_kinds(model: Model, dtype: str):
    ids = np.array(IDS, dtype)
    np.testing.assert_array_equal(model.session().prefill(ids), model.session().prefill(IDS))
    s = model.session()
    s.prefill(ids[::2])  # not contiguous
    s.decode(ids[0])
    s.decode(np.array(3, dtype))
    np.testing.assert_array_equal(
        model.session().prefill(tuple(IDS)), model.session().prefill(range(0, 0) or IDS)
    )


def test_returned_arrays_are_the_callers(model: Model):
    s = model.session()
    first = s.prefill(IDS)
    kept = first.copy()
    second = s.decode(1)
    second.fill(0)
    np.testing.assert_array_equal(first, kept)
    ids = np.array(IDS, np.int32)
    t = model.session()
    t.prefill(ids)
    np.testing.assert_array_equal(ids, IDS)


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        ([], "F606"),
        (np.zeros(0, np.int32), "F606"),
        ([1.0, 2.0], "F604"),
        ([1, 2.0], "F604"),
        ([1, True], "F604"),
        (np.array([True]), "F604"),
        (np.ones(3), "F604"),
        ([[1, 2]], "F604"),
        ([[1], [1, 2]], "F604"),
        (np.ones((1, 3), int), "F604"),
        (np.array(3), "F604"),
        (np.ma.masked_array([1, 2], [False, True]), "F604"),
        (np.ma.masked_array([1, 2]), "F604"),
        ("abc", "F604"),
        (b"abc", "F604"),
        (None, "F604"),
        (3, "F604"),
        ({1, 2}, "F604"),
        ([None], "F604"),
        ([-1], "F605"),
        ([0, VOCAB], "F605"),
        ([2**31], "F605"),
        ([2**32 + 1], "F605"),
        ([-(2**63)], "F605"),
        ([2**64], "F605"),
        ([10**30], "F605"),
        (np.array([2**63], np.uint64), "F605"),
        (np.array([-1], np.int8), "F605"),
    ],
)
def test_bad_ids_are_refused_and_nothing_is_fed(model: Model, ids, code):
    s = model.session()
    before = s.prefill(IDS[:4])
    assert refusal(s.prefill, ids) == code
    assert refusal(s.generate, ids, 4) == code
    assert s.position == 4
    s.prefill(IDS[4:])
    np.testing.assert_array_equal(before, model.session().prefill(IDS[:4]))


@pytest.mark.parametrize("token", [1.0, True, None, "a", [1], np.ones(1, int), np.float32(2)])
def test_decode_takes_one_integer(model: Model, token):
    s = model.session()
    s.prefill(IDS)
    assert refusal(s.decode, token) == "F604"
    assert refusal(s.decode, -1) == refusal(s.decode, VOCAB) == "F605"
    assert s.position == len(IDS)


def test_decode_before_prefill(model: Model):
    s = model.session()
    assert refusal(s.decode, 1) == "F608"
    np.testing.assert_array_equal(s.prefill(IDS), model.session().prefill(IDS))


def test_the_context_is_a_limit(model: Model):
    s = model.session()
    full = [1] * model.context
    assert refusal(s.prefill, [*full, 1]) == "F607"
    assert s.position == 0
    every = s.prefill(full, all_logits=True)
    np.testing.assert_allclose(every, expected_logits(full), atol=2e-5, rtol=1e-5)
    assert refusal(s.decode, 1) == refusal(s.prefill, [1]) == "F607"
    assert s.position == model.context


def test_a_failed_kernel_breaks_the_session_and_no_other(model: Model):
    for token in (FAIL, FAIL_IN_WORKER):
        s, other = model.session(), model.session()
        s.prefill(IDS[:3])
        with pytest.raises(FirstlightError, match=r"ToyError: the toy \w+ gave up") as caught:
            s.prefill([1, token, 1])
        assert caught.value.code == "F611"
        assert refusal(s.decode, 1) == refusal(s.fork) == "F610"
        assert s.position == 3
        s.close()
        np.testing.assert_array_equal(other.prefill(IDS), model.session().prefill(IDS))


def test_closed(toy):
    model = load(toy, threads=1)
    s, t = model.session(), model.session()
    s.prefill(IDS)
    s.close()
    s.close()
    for call in (lambda: s.prefill(IDS), lambda: s.decode(1), s.fork, lambda: s.save("x")):
        assert refusal(call) == "F601"
    assert refusal(s.generate, IDS, 3) == refusal(lambda: s.position) == "F601"
    with model.session() as u:
        u.prefill(IDS)
    assert refusal(u.decode, 1) == "F601"
    t.prefill(IDS)
    model.close()
    model.close()
    assert refusal(t.decode, 1) == refusal(model.session) == refusal(model.restore, "x") == "F601"


def test_models_of_one_artifact_do_not_share_threads(toy):
    one, two = load(toy, threads=1), load(toy, threads=3)
    assert (one.threads, two.threads) == (1, 3)
    want = one.session().prefill(IDS)
    one.close()
    np.testing.assert_array_equal(two.session().prefill(IDS), want)
    two.close()


def test_two_threads_in_one_session(model: Model):
    s = model.session()
    s.prefill(IDS)
    thread = threading.Thread(target=s.decode, args=(SLEEP,))
    thread.start()
    time.sleep(0.05)
    codes = [refusal(s.decode, 1), refusal(s.prefill, [1]), refusal(s.fork), refusal(s.close)]
    thread.join()
    assert codes == ["F602"] * 4
    assert s.position == len(IDS) + 1
    np.testing.assert_array_equal(s.decode(1), model.session().prefill([*IDS, SLEEP, 1]))


def test_a_running_session_keeps_its_model_open(toy):
    model = load(toy, threads=2)
    s = model.session()
    thread = threading.Thread(target=s.prefill, args=([SLEEP],))
    thread.start()
    time.sleep(0.05)
    assert refusal(model.close) == "F602"
    thread.join()
    model.close()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_sessions_in_many_threads(toy, threads):
    with load(toy, threads=threads) as model:
        random = np.random.default_rng(0)
        prompts = [random.integers(0, SLEEP, n).tolist() for n in random.integers(1, 60, 6)]
        want = [model.session().prefill(p, all_logits=True) for p in prompts]
        wrong: list[object] = []

        def work(index: int) -> None:
            try:
                for _ in range(15):
                    s = model.session()
                    cut = 1 + index % len(prompts[index])
                    rows = s.prefill(prompts[index][:cut], all_logits=True)
                    rest = [s.decode(t) for t in prompts[index][cut:]]
                    np.testing.assert_array_equal([*rows, *rest], want[index])
            except BaseException as error:
                wrong.append(error)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        assert not wrong
