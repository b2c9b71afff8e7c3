"""Linking: kernel objects and the native launcher become one shared object."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from firstlight.runtime.errors import FirstlightError

LAUNCHER = Path(__file__).resolve().parents[2] / "runtime" / "native" / "launcher.c"
"""The C source linked into every CPU artifact (package data of ``firstlight.runtime``)."""

GLIBC = "2.28"
"""Oldest glibc that a library linked by zig runs on. Before 2.27 expf and friends were slower."""

FLAGS = (
    "-shared", "-fPIC", "-O3", "-std=gnu11", "-ffp-contract=fast", "-fvisibility=hidden",
    # Same bytes everywhere: no compiler's name, no build id, no symbol table with file names.
    "-g0", "-fno-ident", "-Wl,--build-id=none", "-Wl,-s",
    # A TVM loaded in the same process has symbols of the same name: always prefer our own.
    "-Wl,-Bsymbolic",
)  # fmt: skip


def drivers() -> list[list[str]]:
    """Command lines of the C compiler drivers found here, the preferred one first.

    ``ziglang`` comes first because it is a pinned package that brings its own linker and C library:
    two machines then link the same bytes.
    """
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    if importlib.util.find_spec("ziglang") is not None:
        found.insert(0, [sys.executable, "-m", "ziglang", "cc"])
    return found


def link(
    objects: Sequence[Path], out: Path, march: str, driver: Sequence[str] | None = None
) -> None:
    """Compile the launcher and link it with kernel objects to a stripped shared object.

    Args:
        objects: relocatable objects that ``codegen.tvm_bridge.build_object`` wrote.
        out: the shared object to write; its file name becomes the soname.
        march: the instruction set in GCC's spelling, such as ``x86-64-v3``.
        driver: a command line of ``drivers()``; by default the first.

    Equal objects give equal bytes whatever the folders (for one driver and its version).
    Raises F410 without any driver and F411 if the driver fails.
    """
    if driver is None and not (found := drivers()):
        raise FirstlightError(
            "F410",
            "there is no C compiler to link the kernels with",
            where=str(out),
            why="neither the ziglang package nor cc, gcc or clang was found",
            try_="pip install 'firstlight[compile]'    or    apt-get install gcc",
        )
    command = list(driver or found[0])
    with tempfile.TemporaryDirectory(prefix="firstlight-link-") as scratch:
        for source in (LAUNCHER, LAUNCHER.with_suffix(".h")):
            shutil.copyfile(source, Path(scratch, source.name))
        command += [*FLAGS, *_machine_flags(command, march), f"-Wl,-soname,{out.name}"]
        command += [os.path.abspath(o) for o in objects]
        command += [LAUNCHER.name, "-lm", "-lpthread", "-o", "linked.so"]
        environment = {**os.environ, "LC_ALL": "C", "ZIG_LOCAL_CACHE_DIR": f"{scratch}/cache"}
        try:
            subprocess.run(
                command, cwd=scratch, env=environment, check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise _link_failed(command, out, error) from error
        shutil.copyfile(Path(scratch, "linked.so"), out)
        out.chmod(0o755)


def _machine_flags(driver: Sequence[str], march: str) -> list[str]:
    wide = march == "x86-64-v4"
    if "ziglang" not in driver:
        return [f"-march={march}", *(["-mprefer-vector-width=512"] if wide else [])]
    arch = "x86_64" if march.startswith("x86-64") else "aarch64"
    # v4 is tuned for 256 bits, as if wide vectors still lowered the clock
    cpu = march.replace("-", "_") + ("-prefer_256_bit" if wide else "")
    return ["-target", f"{arch}-linux-gnu.{GLIBC}", f"-mcpu={cpu}"]


def _link_failed(command: Sequence[str], out: Path, error: Exception) -> FirstlightError:
    said = [line.strip() for line in str(getattr(error, "stderr", "") or error).splitlines()]
    telling = [line for line in said if re.search("error|undefined|cannot", line)] or said
    return FirstlightError(
        "F411",
        f"linking {out.name} failed",
        where=" ".join(command[: command.index("-shared")]),
        why="; ".join(telling[:3]),
        try_="firstlight doctor    shows the compilers found here",
    )
