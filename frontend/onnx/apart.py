"""The package onnx's checker, inliner and shape inference, in a process of their own.

They are C++, and hostile models are many: what crashes there, or asks for a terabyte, or never
ends, ends that process and not the user's.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from firstlight.frontend.onnx.errors import broken

SECONDS = 60.0
"""What a model may take; graphs of a hundred thousand nodes take a few."""
NAMES = {"c": "onnx.checker", "i": "onnx.inliner", "t": "onnx.shape_inference"}


class Disliked(Exception):
    """What onnx says against the model."""


class Apart:
    """A worker process. Use it in a `with` statement; it starts at the first question.

    >>> with Apart() as apart:                                            # doctest: +SKIP
    ...     inferred = apart.ask("t", model, "model.onnx")
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._end()

    def ask(self, task: str, model: Any, where: str) -> Any:
        """The answer to "c" (checked), "i" (functions inlined) or "t" (types inferred), a model.

        Raises Disliked with onnx's message, and F150 if the worker died or took too long.
        """
        data = model.SerializeToString()
        until = time.monotonic() + self.seconds
        try:
            process = self._process = self._process or _started()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(task.encode() + len(data).to_bytes(8, "little") + data)
            process.stdin.flush()
            head = _read(process.stdout, 9, until)
            reply = _read(process.stdout, int.from_bytes(head[1:], "little"), until)
        except TimeoutError as error:
            self._end()
            raise broken(where, f"{NAMES[task]} did not end in {self.seconds:.0f} s") from error
        except OSError as error:
            raise broken(where, f"{NAMES[task]} {self._death()}") from error
        except BaseException:
            self._end()     # a reply that nobody reads would answer the next question
            raise
        if head[:1] == b"-":
            raise Disliked(" ".join(reply.decode("utf-8", "replace").split())[:300])
        return type(model).FromString(reply)

    def _death(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            status = 0
        self._end()
        return (f"crashed on it ({signal.Signals(-status).name})" if status < 0 else
                f"ended with status {status}")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _read(stream: IO[bytes], count: int, until: float) -> bytes:
    """Exactly `count` bytes. Raises EOFError-like OSError at the end, TimeoutError too late."""
    parts, left = [], count
    while left:
        wait = until - time.monotonic()
        if wait <= 0 or not select.select([stream], [], [], wait)[0]:
            raise TimeoutError
        part = stream.read1(min(left, 1 << 20))     # type: ignore[attr-defined]
        if not part:
            raise BrokenPipeError("the worker ended")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
