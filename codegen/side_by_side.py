"""The same work on many items, in forked processes that each take one after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

from firstlight.codegen.apart import INTERRUPTS, Died

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T], jobs: int,
                 done: Callable[[T, R], None]) -> list[T]:
    """Call `work` for the items, the first ones first, and here `done` with each result.

    The processes inherit what `work` needs, which may be what cannot be sent; results are sent.
    Returns the items that are left because `work` raised: called here, it will raise here. Raises
    Died if a process was killed. When this ends, by an interrupt too, the processes have ended.
    """
    left, jobs = list(range(len(items))), min(jobs, len(items))
    if jobs <= 1:
        return list(items)
    context = multiprocessing.get_context("fork")
    taken = context.Value("i", 0)
    pipes: dict[Any, int] = {}
    children: list[Any] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        for _ in range(jobs):
            here, there = context.Pipe(duplex=False)
            children.append(context.Process(target=_take, args=(work, items, taken, here, there)))
            children[-1].start()
            there.close()
            pipes[here] = len(children) - 1
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # One that is killed may take the counter's lock along: the others are not waited for then.
        while pipes and all(child.exitcode in (None, 0) for child in children):
            for pipe in connection.wait(list(pipes)):
                try:
                    at, result = pipe.recv()
                except EOFError:
                    children[pipes[pipe]].join()
                    del pipes[pipe]
                    continue
                left.remove(at)
                done(items[at], result)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for child in children:
            child.terminate()
        for child in children:
            child.join()
    killed = {-child.exitcode for child in children if child.exitcode < 0} - {signal.SIGTERM}
    if killed:
        raise Died(f"a process was ended by signal {min(killed)}")
    return [items[at] for at in left]


def _take(work: Callable[[T], R], items: Sequence[T], taken: Any, here: Any, there: Any) -> None:
    here.close()                                         # else nobody would miss the parent
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
            there.send((at, work(items[at])))
    except BaseException:                                # the parent will see it, too
        os._exit(1)
