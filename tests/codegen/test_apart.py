"""Work in a process of its own: its errors arrive here, and it never outlives the call."""

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from firstlight.codegen.apart import Died, run_apart
from firstlight.runtime.errors import FirstlightError


def fails(error: Exception):
    def work() -> None:
        raise error

    return work


def test_it_works_elsewhere_with_its_temporary_files_in_scratch(tmp_path):
    def work() -> None:
        Path(tempfile.mkdtemp(), "pid").write_text(str(os.getpid()))

    run_apart(work, tmp_path)
    (written,) = tmp_path.rglob("pid")
    assert int(written.read_text()) != os.getpid()


def test_its_errors_are_raised_here(tmp_path):
    refused = FirstlightError("F411", "linking failed", where="x", why="y", try_="z")
    with pytest.raises(FirstlightError) as caught:
        run_apart(fails(refused), tmp_path)
    assert (caught.value.code, str(caught.value)) == ("F411", str(refused))
    with pytest.raises(OSError, match="No space left") as full:
        run_apart(fails(OSError(28, "No space left on device", "/x")), tmp_path)
    assert (full.value.errno, full.value.filename) == (28, "/x")


def test_an_error_that_cannot_be_sent_becomes_its_text(tmp_path):
    class Local(Exception):
        pass

    with pytest.raises(RuntimeError, match="Local: oops") as caught:
        run_apart(fails(Local("oops")), tmp_path)
    assert "in work" in caught.value.__notes__[0]


def test_a_death_is_reported_with_its_last_words(tmp_path, capfd):
    def work() -> None:
        os.write(2, b"a warning\nLLVM ERROR: IO failure on output stream\n")
        faulthandler.disable()  # pytest's, which would tell the whole story
        os.abort()

    with pytest.raises(Died, match=r"signal 6: LLVM ERROR: IO failure on output stream"):
        run_apart(work, tmp_path)
    assert capfd.readouterr().err == ""


def test_an_interrupt_ends_the_whole_group(tmp_path):
    """Also the children of the child, and within moments."""
    def work() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (tmp_path / "pids.new").write_text(f"{os.getpid()} {child.pid}")
        (tmp_path / "pids.new").rename(tmp_path / "pids")
        child.wait()

    def interrupt() -> None:
        while not (tmp_path / "pids").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_apart(work, tmp_path)
    assert time.monotonic() - began < 30
    assert [pid for pid in (tmp_path / "pids").read_text().split() if running(pid)] == []


def running(pid: str) -> bool:
    """Whether there is such a process; one that only waits to be reaped has ended."""
    try:
        return Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
