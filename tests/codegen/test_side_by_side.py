"""Work in forked processes: all of it is done, what goes wrong is said, and no process stays."""

import multiprocessing
import os
import signal
import time

import pytest

from firstlight.codegen.apart import Died
from firstlight.codegen.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    assert not multiprocessing.active_children()


def doubled(items, jobs, work=lambda item: [item, 2 * item]):
    heard = []
    side_by_side(work, items, lambda item, news: heard.append((item, news)), jobs)
    return heard


@pytest.mark.parametrize("jobs", [1, 2, 7, None])
def test_all_is_heard_and_that_of_an_item_in_order(jobs):
    heard = doubled(range(9), jobs)
    assert sorted(heard) == sorted((i, n) for i in range(9) for n in (i, 2 * i))
    assert all(heard.index((i, i)) <= heard.index((i, 2 * i)) for i in range(1, 9))
    assert doubled([], jobs) == []


def test_what_is_raised_in_a_process_is_raised_here(capfd):
    def work(item):
        if item == 3:
            raise ValueError("three")
        yield item

    with pytest.raises(ValueError, match="three"):
        doubled(range(6), 2, work)
    assert capfd.readouterr().err == ""


def test_what_failed_once_may_not_fail_here():
    here = os.getpid()

    def work(item):
        assert item != 3 or os.getpid() == here
        yield item

    assert {item for item, _ in doubled(range(6), 2, work)} == set(range(6))


def test_a_killed_process_is_said():
    def work(item):
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

    with pytest.raises(Died, match="signal 9"):
        doubled(range(4), 2, work)


def test_an_exception_on_hearing_ends_all():
    def tell(item, news):
        raise KeyError(item)

    with pytest.raises(KeyError):
        side_by_side(lambda item: [time.sleep(0.01)], range(100), tell, 2)


def test_a_fork_that_fails_is_said(monkeypatch):
    fork, forks = os.fork, []

    def second_fails():
        forks.append(1)
        if len(forks) == 2:
            raise BlockingIOError("no more processes")
        return fork()

    monkeypatch.setattr(os, "fork", second_fails)
    with pytest.raises(BlockingIOError, match="no more processes"):
        doubled(range(4), 3)


def test_processes_end_soon_after_a_parent_that_was_killed(tmp_path):
    def work(item):
        (tmp_path / str(item)).touch()
        time.sleep(0.1)
        yield item

    parent = os.fork()
    if not parent:
        side_by_side(work, range(1000), lambda item, news: None, 3)
        os._exit(0)
    while not (tmp_path / "3").exists():
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    time.sleep(0.5)
    begun = len(list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == begun < 20
