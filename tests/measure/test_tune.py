"""tune: the smallest policy that is measured to fit."""

import itertools

import pytest

from firstlight.measure.plot import plot
from firstlight.measure.tune import Point, parse_budget, tune
from firstlight.runtime.errors import FirstlightError

ROLES, CODECS = ("experts", "attn", "head"), ("int8", "int4")
SAVED = {"int8": 20, "int4": 30}
KL = {("experts", "int8"): 0.004, ("experts", "int4"): 0.05, ("attn", "int8"): 0.001,
      ("attn", "int4"): 0.011, ("head", "int8"): 0.0001, ("head", "int4"): 0.006}


def world(extra: float = 0.0):
    """A measure in which divergences add up, and `extra` comes with every mix of two or more."""
    asked: list[str] = []

    def measure(policy: str) -> Point:
        asked.append(policy)
        mix = [] if policy == "shipped" else [tuple(p.split("=")) for p in policy.split(",")]
        kl = sum(KL[m] for m in mix) + (extra if len(mix) > 1 else 0)
        return Point(policy, 300 - sum(SAVED[c] for _, c in mix), kl)

    return measure, asked


def best(budget: float) -> int:
    """Bytes of the best mix, by trying all of them."""
    mixes = [tuple(zip(roles, codecs, strict=True))
             for n in range(4) for roles in itertools.combinations(ROLES, n)
             for codecs in itertools.product(CODECS, repeat=n)]
    return min(300 - sum(SAVED[c] for _, c in mix) for mix in mixes
               if sum(KL[m] for m in mix) <= budget)


@pytest.mark.parametrize("budget", [1e-5, 0.0005, 0.002, 0.012, 0.02, 0.2])
def test_the_smallest_that_fits(budget) -> None:
    measure, _ = world()
    result = tune(measure, ROLES, CODECS, budget)
    assert result.chosen.kl <= budget
    assert result.chosen.bytes == best(budget)


def test_a_mix_that_diverges_more_than_predicted_is_not_chosen() -> None:
    measure, asked = world(extra=0.008)
    result = tune(measure, ROLES, CODECS, 0.012)
    assert result.chosen.kl <= 0.012
    assert any(p.kl > 0.012 and p.bytes < result.chosen.bytes for p in result.points)
    assert len(asked) == len(set(asked)), "nothing is measured twice"


def test_what_saves_nothing_is_left_alone(monkeypatch) -> None:
    monkeypatch.setitem(SAVED, "int8", -10)
    measure, _ = world()
    assert tune(measure, ROLES, ("int8",), 1.0).chosen.policy == "shipped"


def test_budgets() -> None:
    assert parse_budget("0.02nats") == parse_budget(" 0.02 ") == 0.02
    for text in ("", "x", "-1", "0", "nan", "inf", "0.02 bits"):
        with pytest.raises(FirstlightError, match="F711"):
            parse_budget(text)


def test_pictures(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    points = [Point("shipped", 300, 0.0), Point("head=int4", 270, 0.006)]
    for name in ("a.svg", "a.png"):
        plot(points, tmp_path / name, points[1])
        assert (tmp_path / name).stat().st_size > 5000
    assert "head=int4" in (tmp_path / "a.svg").read_text()
    with pytest.raises(FirstlightError, match="F712"):
        plot(points, tmp_path / "a.txt")
    plot(points, tmp_path / "a.html")
    assert "<svg" in (tmp_path / "a.html").read_text()
