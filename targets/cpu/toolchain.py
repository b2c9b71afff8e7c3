"""Linking: kernel objects and the native launcher become one shared object, or one executable."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from firstlight.codegen.c_compiler import drivers
from firstlight.runtime.errors import FirstlightError

NATIVE = Path(__file__).resolve().parents[2] / "runtime" / "native"
LAUNCHER = NATIVE / "launcher.c"
"""The C source linked into every CPU artifact (package data of ``firstlight.runtime``)."""
RUNNER = NATIVE / "runner.c"
"""The `main` of ``firstlight-run``."""

GLIBC = "2.28"
"""Oldest glibc that a library linked by zig runs on. Before 2.27 expf and friends were slower."""

COMMON = (
    "-O3", "-std=gnu11", "-ffp-contract=fast", "-fvisibility=hidden",
    # Same bytes everywhere: no compiler's name, no build id, no symbol table with file names.
    "-g0", "-fno-ident", "-Wl,--build-id=none", "-Wl,-s",
)  # fmt: skip
SHARED = (
    "-shared", "-fPIC",
    # A TVM loaded in the same process has symbols of the same name: always prefer our own.
    "-Wl,-Bsymbolic",
)  # fmt: skip


class Machine(NamedTuple):
    """An instruction set: the architecture in Linux spelling, zig's -mcpu, flags of gcc."""

    arch: str
    zig: str
    gcc: tuple[str, ...]


MACHINES = {
    "x86-64-v3": Machine("x86_64", "x86_64_v3", ("-march=x86-64-v3",)),
    # tuned for 256 bits by default, as if wide vectors still lowered the clock
    "x86-64-v4": Machine("x86_64", "x86_64_v4-prefer_256_bit",
                         ("-march=x86-64-v4", "-mprefer-vector-width=512")),
    "x86-64-v4+vnni": Machine("x86_64", "x86_64_v4-prefer_256_bit+avx512vnni", (
        "-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512vnni")),
    "armv8-a": Machine("aarch64", "generic", ("-march=armv8-a",)),
    "armv8.2-a+dotprod": Machine("aarch64", "generic+v8_2a+dotprod",
                                 ("-march=armv8.2-a+dotprod",)),
    "rv64gcv": Machine("riscv64", "baseline_rv64+v", ("-march=rv64gcv",)),
}
"""By name, which is GCC's -march, and what else the machine must have."""


def link(
    objects: Sequence[Path], out: Path, march: str, driver: Sequence[str] | None = None
) -> None:
    """Compile the launcher and link it with kernel objects to a stripped shared object.

    Args:
        objects: relocatable objects that ``codegen.tvm_bridge.build_object`` wrote.
        out: the shared object to write; its file name becomes the soname.
        march: the instruction set, a name in `MACHINES`.
        driver: a command line of ``drivers()``; by default the first that has the instruction set.

    Equal objects give equal bytes whatever the folders (for one driver and its version).
    Raises F410 without any driver and F411 if the driver fails.
    """
    _link(objects, out, march, driver, [*SHARED, f"-Wl,-soname,{out.name}"], [LAUNCHER], "gnu", "")


def link_executable(
    objects: Sequence[Path], kernels: Iterable[str], main: Path, out: Path, march: str,
    driver: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Link kernel objects, the launcher and a C source with `main` to one static executable.

    Nothing can be looked up by name in it, so the kernels' symbols become a table (kernels.h).
    Otherwise like `link`.
    """
    _link(objects, out, march, driver, ["-static"], [main, LAUNCHER], "musl", _table(kernels))


def _table(kernels: Iterable[str]) -> str:
    """The C source of the kernels' table, in the order of their names."""
    names = sorted(kernels)
    declared = "".join(f"int __tvm_ffi_{n}(void*, const fl_arg*, int32_t, fl_arg*);\n"
                       for n in names)
    rows = "".join(f'  {{"{n}", __tvm_ffi_{n}}},\n' for n in names)
    return (f'#include "kernels.h"\n{declared}const fl_named fl_kernels[] = {{\n{rows}}};\n'
            f"const int64_t fl_kernel_count = {len(names)};\n")


def _link(
    objects: Sequence[Path], out: Path, march: str, driver: Sequence[str] | None,
    flags: Sequence[str], sources: Sequence[Path], libc: str, table: str,
) -> None:  # fmt: skip
    driver = driver or _driver(out, march)
    with tempfile.TemporaryDirectory(prefix="firstlight-link-") as scratch:
        for source in (*NATIVE.glob("*.h"), *sources):
            shutil.copyfile(source, Path(scratch, source.name))
        names = [source.name for source in sources]
        if table:
            Path(scratch, "table.c").write_text(table)
            names.append("table.c")
        command = [*driver, *flags, *COMMON, *_machine_flags(driver, march, libc)]
        command += [os.path.abspath(o) for o in objects]
        command += [*names, "-lm", "-lpthread", "-o", "linked.out"]
        environment = {**os.environ, "LC_ALL": "C", "ZIG_LOCAL_CACHE_DIR": f"{scratch}/cache"}
        try:
            subprocess.run(
                command, cwd=scratch, env=environment, check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise _link_failed(driver, out, error) from error
        shutil.copyfile(Path(scratch, "linked.out"), out)
        out.chmod(0o755)


def _driver(out: Path, march: str) -> list[str]:
    """The first driver that has the instruction set: only ziglang knows foreign ones."""
    machine = MACHINES.get(march)
    foreign = machine is not None and machine.arch != platform.machine()
    found = [d for d in drivers() if "ziglang" in d or not foreign]
    if found:
        return found[0]
    raise FirstlightError(
        "F410",
        "there is no C compiler to link the kernels with",
        where=str(out),
        why=f"the ziglang package was not found, which links for {machine.arch}"
        if machine is not None and foreign
        else "neither the ziglang package nor cc, gcc or clang was found",
        try_="pip install 'firstlight[compile]'    or    apt-get install gcc",
    )


def _machine_flags(driver: Sequence[str], march: str, libc: str) -> list[str]:
    machine = MACHINES[march]
    if "ziglang" not in driver:
        return list(machine.gcc)
    version = f".{GLIBC}" if libc == "gnu" else ""
    return ["-target", f"{machine.arch}-linux-{libc}{version}", f"-mcpu={machine.zig}"]


def _link_failed(driver: Sequence[str], out: Path, error: Exception) -> FirstlightError:
    said = [line.strip() for line in str(getattr(error, "stderr", "") or error).splitlines()]
    telling = [line for line in said if re.search("error|undefined|cannot", line)] or said
    return FirstlightError(
        "F411",
        f"linking {out.name} failed",
        where=" ".join(driver),
        why="; ".join(telling[:3]),
        try_="firstlight doctor    shows the compilers found here",
    )
