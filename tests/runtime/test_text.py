"""Tokens that arrive one by one become whole characters."""

import pytest

from firstlight.runtime import FirstlightError, Model
from firstlight.runtime.text import StopCondition


def test_round_trip(model: Model):
    for text in ("hello world", "café é", ""):
        assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert model.tokenizer.encode("ab") == [0, 1]


def test_what_is_no_text_and_what_are_no_ids(model: Model):
    tokenizer = model.tokenizer
    for call, wrong in (
        *((tokenizer.encode, text) for text in (None, 1, "\ud800", b"a")),
        *((tokenizer.decode, ids) for ids in ([-1], [2**64], ["a"], [None], [1.5], None, 3)),
    ):
        with pytest.raises(FirstlightError) as caught:
            call(wrong)
        assert caught.value.code == "F631"
        assert len(str(caught.value).splitlines()) == 4


def test_pieces_are_whole_characters(model: Model):
    stream = model.tokenizer.stream()
    pieces = [stream.push(t) for t in model.tokenizer.encode("café é!"[:6])]
    assert pieces == ["c", "a", "f", "", "é", " ", "", "é"]
    assert stream.finish() == ""


def test_an_incomplete_character_at_the_end(model: Model):
    stream = model.tokenizer.stream()
    first_half = model.tokenizer.encode("é")[0]
    assert [stream.push(0), stream.push(first_half)] == ["a", ""]
    assert stream.finish() == "\ufffd"
    assert stream.push(1) == "b"


def test_stop_strings_across_tokens(model: Model):
    ids = model.tokenizer.encode("abcabdé")
    for stop, last in (("abd", 5), ("bc", 2), ("é", 7), ("a", 0), ("abdé", 7)):
        done = StopCondition(frozenset(), [stop], model.tokenizer.stream())
        assert [i for i, t in enumerate(ids) if done(t)][:1] == [last]
    done = StopCondition(frozenset([3]), [], None)
    assert [done(t) for t in ids].index(True) == 5
