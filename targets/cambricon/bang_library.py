"""BANG C as a library of this machine: compiled unchanged against the emulator's headers.

A library is kept in the compiler's cache folder, under a hash of everything it is made from. Beside
it lies a list of its arrays, from its symbol table: the emulator knows memories by address.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from firstlight.codegen.cache import user_cache
from firstlight.runtime.errors import FirstlightError

HEADERS = Path(__file__).with_name("emulator")
FLAGS = ("-std=gnu++17", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC")
KERNEL = ("-O1", "-g1")
WATCHED = ("-fsanitize=thread",)
"""Scalar accesses call into the emulator; the sanitizer's own library is not linked."""
MACHINE = ("-O2", "-march=native")
SPACES = {"bang_nram": "NRAM", "bang_wram": "WRAM", "bang_sram": "SRAM", "bang_ldram": "LDRAM"}
SECONDS = 1800
FORMAT = "2"
"""Of what lies in the cache beside the sources that it is named by."""
Maker = Callable[[Sequence[str], Sequence[str], Sequence[str], Path], None]


def compilers() -> list[list[str]]:
    """C++ compilers found here."""
    found = [[path] for name in ("g++", "clang++", "clang++-19") if (path := shutil.which(name))]
    if importlib.util.find_spec("ziglang") is not None:
        found.append([sys.executable, "-m", "ziglang", "c++"])
    return found


def server() -> Path:
    """The emulator as a program: what instructions compute, and all the rest."""
    def part(header: str) -> Path:
        return _made(_object, {"part.cpp": f'#include "{header}"\n'}, (*FLAGS, *MACHINE),
                     _headers(header))

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(part, ("rounding.h", "server.h")))
    return _made(_program, {}, tuple(map(str, parts)), {})


def library(files: Mapping[str, bytes], entries: Mapping[str, str], watched: bool = True,
            flags: Sequence[str] = ()) -> Path:
    """Kernels as a library that the emulator loads.

    Args:
        files: sources by name; every .mlu of them is compiled, in order, as one translation unit.
        entries: C++ expression of a kernel by the name it is launched by.
        watched: whether scalar accesses are checked.
        flags: more flags for the compiler, such as ``-D__BANG_ARCH__=372``.

    Raises F408 where the compiler refuses the text, F410 where there is no compiler.
    """
    lines = ["#include <bang.h>", "#include <entry.h>",
             *[f'#include "{name}"' for name in files if name.endswith(".mlu")]]
    text = b"\n".join(files.values())
    for name, expression in entries.items():
        lines.append(f"BANG_ENTRY({name}, {expression})")
        if f"{name}_workspace(".encode() in text:
            lines.append(f'extern "C" int64_t bang_workspace_{name}(int64_t S) '
                         f"{{ return {name}_workspace(S); }}")
    sources = {**files, "kernels.cpp": "\n".join([*lines, ""]).encode(),
               "tail.cpp": b"#include <entry.h>\nBANG_TAIL\n"}
    return _made(_library, sources, (*FLAGS, *KERNEL, *flags, *(WATCHED if watched else ())),
                 _headers("bang.h", "entry.h"))


def _cache() -> Path:
    folder = user_cache("cambricon").folder or Path(_OWN.name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_OWN = tempfile.TemporaryDirectory(prefix="firstlight-cambricon-")


def _made(make: Maker, files: Mapping[str, str | bytes], flags: Sequence[str],
          headers: Mapping[str, bytes]) -> Path:
    """What `make` makes of sources, unless it is in the cache already."""
    found = compilers()
    if not found:
        raise FirstlightError("F410", "there is no C++ compiler", where="targets/cambricon",
                              why="neither g++, clang++ nor the ziglang package was found",
                              try_="apt-get install g++    or    pip install ziglang")
    sources = {path: data.encode() if isinstance(data, str) else data
               for path, data in files.items()}
    key = hashlib.sha256("\0".join([FORMAT, *found[0], *flags, _processor()]).encode())
    for path, data in [*headers.items(), *sources.items()]:
        key.update(f"\0{path}\0{len(data)}\0".encode() + data)
    made = _cache() / f"{make.__name__[1:]}-{key.hexdigest()[:40]}"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as name:
            folder = Path(name)
            for path, data in sources.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
            units = [path for path in sources if path.endswith(".cpp")]
            make(found[0], units, flags, folder)
            if (folder / "arrays").exists():
                (folder / "arrays").replace(f"{made}.arrays")
            (folder / "made").replace(made)
    return made


def _object(compiler: Sequence[str], units: Sequence[str], flags: Sequence[str],
            folder: Path) -> None:
    _run([*compiler, *flags, f"-I{HEADERS}", "-c", *units, "-o", "made"], folder)


def _program(compiler: Sequence[str], units: Sequence[str], flags: Sequence[str],
             folder: Path) -> None:
    _run([*compiler, "-rdynamic", *flags, "-o", "made", "-ldl", "-lpthread"], folder)


def _library(compiler: Sequence[str], units: Sequence[str], flags: Sequence[str],
             folder: Path) -> None:
    for unit in units:
        _run([*compiler, *flags, f"-I{HEADERS}", "-I.", "-c", unit, "-o", f"{unit}.o"], folder)
    _run([*compiler, "-shared", *[f"{u}.o" for u in units], "-o", "made"], folder)
    (folder / "arrays").write_text(arrays(folder / "made"))


def _headers(*names: str) -> dict[str, bytes]:
    """Headers of the emulator and all that they include."""
    found: dict[str, bytes] = {}
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found[name] = (HEADERS / name).read_bytes()
            left += re.findall(r'#include "([\w.]+)"', found[name].decode())
    return dict(sorted(found.items()))


def _processor() -> str:
    """What code with -march=native depends on."""
    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines()
             if line.startswith(("flags", "Features"))][:1] if cpu.exists() else []
    return "\n".join([platform.machine(), *flags])


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS,
                          env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if "error" in line]
        raise FirstlightError("F408", "the C++ compiler refuses emitted text",
                              where=" ".join(command[:1]),
                              why=said[0] if said else f"status {done.returncode}",
                              try_="firstlight conform TARGET --level emit")


def arrays(path: Path) -> str:
    """Lines "memory offset bytes" of every array that a library declares.

    >>> arrays(Path("no library"))
    Traceback (most recent call last):
        ...
    FileNotFoundError: [Errno 2] No such file or directory: 'no library'
    """
    data = path.read_bytes()
    start, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]

    def word(table: int, at: int) -> str:
        begin = sections[table][4] + at
        return data[begin: data.index(b"\0", begin)].decode()

    titles = [word(names, s[0]) for s in sections]
    lines = []
    for section in sections:
        if section[1] != 2:     # the symbol table
            continue
        for at in range(section[4], section[4] + section[5], 24):
            name, kind, _, place, value, nbytes = struct.unpack_from("<IBBHQQ", data, at)
            space = SPACES.get(titles[place]) if place < len(titles) else None
            # the linker's own __TMC_END__ may fall on an array: it has no bytes
            if space and kind & 15 == 1 and nbytes and word(section[6], name) != "bang_tail":
                lines.append(f"{space} {value} {nbytes}")
    return "".join(f"{line}\n" for line in sorted(set(lines)))
