"""The C compilers of this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from firstlight.runtime.errors import FirstlightError

FLAGS = ("-std=gnu11", "-O1", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-shared", "-fPIC")
"""For text that is emulated: what it says, in the order it says it."""


def drivers() -> list[list[str]]:
    """Command lines of the C compiler drivers found here, the preferred one first.

    ``ziglang`` comes first because it is a pinned package that brings its own linker and C library:
    two machines then link the same bytes.
    """
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    if importlib.util.find_spec("ziglang") is not None:
        found.insert(0, [sys.executable, "-m", "ziglang", "cc"])
    return found


def compile_c(source: Path, out: Path, flags: Sequence[str] = FLAGS) -> Path:
    """Compile one C file to a shared object with the first compiler found.

    Raises F410 without a compiler, and F408 if it refuses the text (with its first complaint).
    """
    found = drivers()
    if not found:
        raise FirstlightError(
            "F410", "there is no C compiler", where=str(source),
            why="neither the ziglang package nor cc, gcc or clang was found",
            try_="pip install 'firstlight[compile]'    or    apt-get install gcc",
        )
    command = [*found[0], *flags, source.name, "-o", os.path.abspath(out), "-lm"]
    environment = {**os.environ, "LC_ALL": "C",
                   "ZIG_LOCAL_CACHE_DIR": str(source.parent.resolve() / "zig-cache")}
    done = subprocess.run(command, cwd=source.parent, env=environment, capture_output=True,
                          text=True)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if "error" in line]
        raise FirstlightError(
            "F408", f"the C compiler refuses {source.name}", where=" ".join(found[0]),
            why=said[0] if said else f"status {done.returncode}",
            try_=f"{' '.join(found[0])} {source}",
        )
    return out
