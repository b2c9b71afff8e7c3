"""The same work on many items, in forked processes that each take one after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

from firstlight.codegen.apart import INTERRUPTS, Died

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], Iterable[R]], items: Sequence[T],
                 tell: Callable[[T, R], None], jobs: int | None = None) -> None:
    """Go through what `work` gives for each item, the first items first; `tell` hears of it here.

    The processes inherit what `work` needs, which may be what cannot be sent; what it gives is
    sent. If it raises in one, the items that are left are done here, where it may raise again.
    Raises Died if a process was killed. When this ends, by an interrupt too, they have ended.

    Args:
        jobs: processes, by default one for each usable core; 1 is this one.
    """
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(items))
    left = _forked(work, items, tell, jobs) if jobs > 1 else list(range(len(items)))
    for at in left:
        for news in work(items[at]):
            tell(items[at], news)


def _forked(work: Callable[[T], Iterable[R]], items: Sequence[T],
            tell: Callable[[T, R], None], jobs: int) -> list[int]:
    """The items that are left because one raised."""
    left = list(range(len(items)))
    context = multiprocessing.get_context("fork")
    taken = context.Value("i", 0)
    children: list[Any] = []
    pipes: dict[Any, Any] = {}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        for _ in range(jobs):
            here, there = context.Pipe(duplex=False)
            child = context.Process(
                target=_take, args=(work, items, taken, [*pipes, here], there))
            child.start()
            children.append(child)
            pipes[here] = child
            there.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # One that is killed may take the counter's lock along: the others are not waited for then.
        while pipes and all(child.exitcode in (None, 0) for child in children):
            for pipe in connection.wait(list(pipes)):
                try:
                    at, ended, news = pipe.recv()
                except EOFError:
                    pipes.pop(pipe).join()
                    continue
                if ended:
                    left.remove(at)
                else:
                    tell(items[at], news)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for child in children:
            child.terminate()
        for child in children:
            child.join()
    killed = {-child.exitcode for child in children if child.exitcode < 0} - {signal.SIGTERM}
    if killed:
        raise Died(f"a process was ended by signal {min(killed)}")
    return left


def _take(work: Callable[[T], Iterable[R]], items: Sequence[T], taken: Any, others: Sequence[Any],
          there: Any) -> None:
    for pipe in others:                                  # else a parent's end would go unnoticed
        pipe.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # Ctrl+C is for the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    try:
        while True:
            with taken.get_lock():
                at = taken.value
                taken.value += 1
            if at >= len(items):
                return
            for news in work(items[at]):
                there.send((at, False, news))
            there.send((at, True, None))
    except BaseException:                                # the parent will see it, too
        os._exit(1)
