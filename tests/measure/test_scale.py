"""bench --scale: what is calculated is right; the times it starts from are not tested."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from firstlight.cli import run_command_line
from firstlight.measure.scale import (
    Region,
    Step,
    Threads,
    _read_times,
    _step,
    _ways,
    divide,
    kernel_regions,
    table,
)
from firstlight.measure.sticks import Sticks
from firstlight.runtime.errors import FirstlightError


def shared(seconds, chunks, nbytes=0.0):
    return Step(nbytes, 0.0, (Region(seconds, chunks),))


def test_a_thread_has_whole_chunks():
    for threads, share in ((1, 1), (2, 1 / 2), (4, 2 / 6), (5, 2 / 6), (6, 1 / 6), (64, 1 / 6)):
        got = divide([shared(1.0, 6)], Threads(threads, 1e9, 0))
        assert got.shared == pytest.approx(share)
    for chunks, share in ((None, 1 / 64), (1, 1), (0, 1)):
        assert divide([shared(1.0, chunks)], Threads(64, 1e9, 0)).shared == pytest.approx(share)


def test_bytes_take_as_long_as_the_memory_of_all_threads_needs():
    steps = [shared(1.0, 512, 2e9), shared(1.0, 512, 1e8)]
    got = divide(steps, Threads(16, 10e9, 0))
    assert got.memory == pytest.approx(0.2)
    assert got.shared == pytest.approx(1 / 16)
    assert got.total == pytest.approx(0.2 + 1 / 16)


def test_what_is_outside_of_regions_is_for_one_thread():
    steps = [Step(1e9, 0.5), Step(0.0, 0.25, (Region(1.0, 64), Region(0.5, 2)))]
    got = divide(steps, Threads(64, 1e9, 0))
    assert (got.one_thread, got.memory) == (0.75, 0)
    assert got.shared == pytest.approx(1 / 64 + 1 / 4)


def test_every_region_is_started():
    steps = [Step(0.0, 0.0, (Region(0.0, 64), Region(0.0, 6))), shared(0.0, 512), Step(0.0, 0.0)]
    assert divide(steps, Threads(16, 1e9, 1e-6)).starting == pytest.approx(3e-6)


def test_regions_that_ran_are_those_that_a_kernel_lists_or_the_kindest_of_them():
    listed = _step(0.0, 1.0, [0.5, 0.25], [[6, 64]])
    assert listed == Step(0.0, 0.25, (Region(0.5, 6), Region(0.25, 64)))
    assert _step(0.0, 1.0, [0.5], [[6, 64]]).regions == (Region(0.5, 64),)
    assert _step(0.0, 1.0, [0.5, 0.25], [[None]]).regions == (Region(0.5, None), Region(0.25, None))
    assert _step(0.0, 1.0, [], [[6, 64]]).regions == ()


def test_of_two_branches_the_one_that_ran():
    ways = _ways([3, {"either": [[2], ["S", {"either": [[None], [7, 8]]}]]}], 5)
    assert ways == [[3, 2], [3, 5, None], [3, 5, 7, 8]]
    assert [r.chunks for r in _step(0.0, 1.0, [0.5, 0.25], ways).regions] == [3, 2]
    assert [r.chunks for r in _step(0.0, 1.0, [0.2] * 3, ways).regions] == [3, 5, None]
    assert [r.chunks for r in _step(0.0, 1.0, [0.5], [[2], [9]]).regions] == [9]


def test_the_words_of_the_launcher_are_regions_then_their_step():
    words = np.array([4, 30, 10, -50, -7, 99], np.int64)
    assert list(_read_times(words)) == [
        (pytest.approx(5e-8), pytest.approx([3e-8, 1e-8])), (pytest.approx(7e-9), [])]


def test_the_command_prints_and_writes_a_line_for_each_number(tiny_artifact, capsys):
    arguments = ["bench", str(tiny_artifact), "-p", "20", "-d", "30", "-r", "1", "-n", "2",
                 "--threads", "2", "--scale", "2,16,64", "--bandwidth", "20,200,1000"]
    assert run_command_line([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["scale"]
    rows = document["rows"]
    assert [(r["test"], r["threads"]) for r in rows] == [
        (test, n) for test in ("prefill", "decode") for n in (1, 2, 16, 64)]
    assert document["region_s"] > 0
    for row in rows:
        assert (row["measured"] is not None) == (row["threads"] == 2)
        assert row["seconds"]["one_thread"] > 0
    alone = document["one_thread_read"]
    assert [r["bandwidth"] for r in rows[2:4]] == [min(16 * alone, 200e9), min(64 * alone, 1e12)]
    assert rows[3]["seconds"]["shared"] < rows[0]["seconds"]["shared"]
    assert table(rows[:4]).count("\n") == 7
    assert run_command_line(arguments) == 0
    assert "### decode 30 by threads, ms a token" in capsys.readouterr().out


def test_bandwidths_without_their_threads_are_wrong_use(tiny_artifact):
    for words in (["--bandwidth", "200"], ["--scale", "4,8,16", "--bandwidth", "200,400"]):
        assert run_command_line(["bench", str(tiny_artifact), *words]) == 2


def test_an_artifact_that_does_not_tell_its_regions_is_refused(tmp_path):
    model = SimpleNamespace(manifest=SimpleNamespace(directory=tmp_path),
                            program=SimpleNamespace(kernels=["linear_0"]))
    for text in (None, "{}", '{"regions": {"other_0": []}}'):
        if text is not None:
            (tmp_path / "debug.json").write_text(text)
        with pytest.raises(FirstlightError, match="F713"):
            kernel_regions(model)
    (tmp_path / "debug.json").write_text('{"regions": {"linear_0": [512]}}')
    assert kernel_regions(model) == {"linear_0": [512]}


def test_a_device_cannot_say_what_a_region_costs():
    with pytest.raises(FirstlightError, match="F713"):
        Sticks(SimpleNamespace(threads=1), 0, lambda: 0.0).region()
