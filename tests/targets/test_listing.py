"""`firstlight targets`, and `firstlight targets NAME`."""

import json
import re

import pytest

from firstlight.cli import run_command_line
from firstlight.targets import available


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run_command_line(["targets", *arguments]) == 0
    return capsys.readouterr().out


def test_the_list_shows_tiers_and_tools(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {r["target"]: r for r in json.loads(output(capsys, "--json"))["targets"]}
    assert rows.keys() == available().targets.keys()
    assert (rows["null"]["tier"], rows["null"]["tools"]) == ("D", "no compiler")
    text = output(capsys)
    assert re.search(r"^  D +emitted only$", text, re.MULTILINE)
    assert "broken" not in text


def test_a_target_says_what_it_has_and_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(output(capsys, "null-pretend", "--json"))
    assert document["memory"][1] == {"space": "scratch", "bytes": 4096, "align": 64}
    lacking = {row["op"]: row for row in document["not_here"]}
    assert lacking["hyper_pre"]["how"] == "decomposed"
    assert lacking["hadamard"]["how"] == "missing"
    assert all(row["reason"] for row in lacking.values())
    assert document["tools"][0]["get"]
    text = output(capsys, "null-pretend")
    assert "no instruction counts bits" in text
    assert "grid dimensions 1" in text or "grid_dimensions 1" in text


@pytest.mark.parametrize("name", sorted(available().targets))
def test_every_target_can_be_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(output(capsys, name, "--json"))
    ops = [op for group in document["ops"].values() for op in group.split(", ")]
    target = available().targets[name]
    assert sorted(ops + [row["op"] for row in document["not_here"]]) == sorted(target.ops)


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["targets", "abacus"]) == 1
    assert "error[F430]" in capsys.readouterr().err
