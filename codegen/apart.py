"""Work done in a process of its own, so that however it ends, nothing of it stays.

LLVM answers a full disk with abort(), Ctrl+C does not reach a compiler that is in C++, and TVM
keeps the memory of all it ever lowered. A process can be ended, and it gives everything back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Died(Exception):
    """The process ended without an answer; the text says how, and what it last said."""


def run_apart(work: Callable[[], object], scratch: Path,
              overdue: Callable[[], str] = str) -> None:
    """Call `work` in a forked process and wait for it.

    Its temporary files go to the folder `scratch`, its standard error nowhere unless it dies. What
    it raises is raised here: the same exception, or a RuntimeError of its text where it cannot be
    sent. Raises Died if it is killed, by `overdue`, too: asked now and then, it gives a reason to
    wait no longer, or "". When this ends, by an interrupt too, the process and those it started
    have ended.
    """
    context = multiprocessing.get_context("fork")
    answer, send = context.Pipe(duplex=False)
    with tempfile.TemporaryFile() as said, answer:
        child = context.Process(target=_child, args=(work, scratch, send, said))
        # An interrupt between fork and _child would be answered there, with a traceback.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            child.start()
            send.close()
            with contextlib.suppress(OSError):     # whichever of the two comes first
                os.setpgid(child.pid, child.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        try:
            late = ""
            while not answer.poll(0.2) and child.is_alive() and not (late := overdue()):
                pass
            error = (Died(late) if late else answer.recv() if answer.poll()
                     else Died(_last_words(child, said)))
        except EOFError:
            error = Died(_last_words(child, said))
        finally:
            _end(child, answer)
    if error is not None:
        raise error


def _child(work: Callable[[], object], scratch: Path, send: Connection, said: BinaryIO) -> None:
    os.setpgid(0, 0)                           # Ctrl+C is for the parent, which ends this group
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    os.dup2(said.fileno(), 2)
    sys.stderr = open(2, "w", closefd=False)
    tempfile.tempdir = os.fspath(scratch)
    error: Exception | None = None
    try:
        work()
    except Exception as e:
        error = e
    send.send(_sendable(error))


def _sendable(error: Exception | None) -> Exception | None:
    if error is None:
        return None
    try:
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error)
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note("".join(traceback.format_exception(error)))
    return copy


def _last_words(child: Any, said: BinaryIO) -> str:
    child.join()
    how = f"signal {-child.exitcode}" if child.exitcode < 0 else f"status {child.exitcode}"
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return f"the process ended with {how}" + (f": {lines[-1][:300]}" if lines else "")


def _end(child: Any, answer: Connection) -> None:
    """Kill what is left of the process group, and wait: it must not write any more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    with contextlib.suppress(EOFError, OSError):
        while True:                            # the last of the group closes the pipe
            answer.recv_bytes()
