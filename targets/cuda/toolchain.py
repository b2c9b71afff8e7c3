"""The compilers for the chips: NVRTC from its pip package, or nvcc where there is one."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn, Protocol

from firstlight.runtime.errors import FirstlightError

FLAGS = ("--std=c++17", "--disable-warnings")
"""Of NVRTC. Its numerics are left as they are: fused multiply-add, exact division and roots."""
NVCC_FLAGS = ("-std=c++17", "-w")
DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""Least driver (Linux) that loads a cubin of any release of a CUDA major version, from the table
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility"."""


@dataclass(frozen=True)
class Compiled:
    """A source, compiled: machine code of one architecture, and PTX that newer chips can load."""

    cubin: bytes
    ptx: bytes


class Compiler(Protocol):
    """A CUDA compiler. `version` is its CUDA version, such as (13, 5)."""

    version: tuple[int, int]

    @property
    def name(self) -> str:
        """What it is, and where."""
        ...

    def compile(self, text: str, name: str, arch: str) -> Compiled:
        """One source for ``sm_<arch>``; `name` is what errors call it. Raises F412."""
        ...


@cache
def compiler() -> Compiler | None:
    """The compiler of this machine. The pip package comes first: it is the same everywhere."""
    for path in reversed(_nvrtc_libraries()):
        try:
            return Nvrtc(path)
        except OSError:                 # built for another system, or a file of it is missing
            continue
    found = shutil.which("nvcc")
    return Nvcc(found) if found else None


def requirements(arch: str) -> dict[str, object]:
    """What a machine must have for code of this machine's compiler; plain data.

    Without a compiler here, the driver depends on which one will be used, and is left out.
    """
    needs: dict[str, object] = {"compute_capability": f"{arch[:-1]}.{arch[-1]}"}
    found = compiler()
    if found is not None:
        major, minor = found.version
        needs |= {"cuda": f"{major}.0", "ptx_cuda": f"{major}.{minor}"}
        if major in DRIVERS:
            needs["driver"] = DRIVERS[major]
    return needs


def _nvrtc_libraries() -> list[Path]:
    """Libraries of pip packages, older ones first."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [p for folder in folders for p in Path(folder).glob("*/lib/libnvrtc.so.*")
             if re.fullmatch(r"libnvrtc\.so\.\d+", p.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition(".")[2]))


class Nvrtc:
    """The compiler as a library. Raises OSError if it cannot be loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value

    @property
    def name(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]} ({self.path})"

    def compile(self, text: str, name: str, arch: str) -> Compiled:
        program = ctypes.c_void_p()
        self._check(self.library.nvrtcCreateProgram(
            ctypes.byref(program), text.encode(), name.encode(), 0, None, None), name)
        try:
            options = [f"--gpu-architecture=sm_{arch}", *FLAGS]
            array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
            status = self.library.nvrtcCompileProgram(program, len(options), array)
            if status:
                log = self._get("ProgramLog", program, name).rstrip(b"\0").decode(errors="replace")
                _refuse(name, f"{self.name} for sm_{arch}", log or self._says(status))
            cubin = self._get("CUBIN", program, name)
            return Compiled(cubin, self._get("PTX", program, name).rstrip(b"\0"))
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, what: str, program: ctypes.c_void_p, name: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), name)
        data = ctypes.create_string_buffer(size.value)
        self._check(getattr(self.library, f"nvrtcGet{what}")(program, data), name)
        return data.raw

    def _check(self, status: int, name: str) -> None:
        if status:
            _refuse(name, self.name, self._says(status))

    def _says(self, status: int) -> str:
        return str(self.library.nvrtcGetErrorString(status).decode())


class Nvcc:
    """The compiler as a program."""

    def __init__(self, path: str) -> None:
        self.path = path
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"release (\d+)\.(\d+)", said)
        self.version = (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def name(self) -> str:
        return f"nvcc {self.version[0]}.{self.version[1]} ({self.path})"

    def compile(self, text: str, name: str, arch: str) -> Compiled:
        with tempfile.TemporaryDirectory(prefix="firstlight-nvcc-") as scratch:
            Path(scratch, name).write_text(text)
            made = [self._run(command, name, Path(scratch)) for command in commands(name, arch)]
        return Compiled(*made)

    def _run(self, command: Sequence[str], name: str, folder: Path) -> bytes:
        done = subprocess.run([self.path, *command[1:]], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            _refuse(name, self.name, done.stderr)
        return Path(folder, command[-1]).read_bytes()


def commands(name: str, arch: str) -> list[list[str]]:
    """The command lines that make a cubin and PTX of a source, in its folder."""
    stem = name.removesuffix(".cu")
    return [["nvcc", "-cubin", f"-arch=sm_{arch}", *NVCC_FLAGS, name, "-o", f"{stem}.cubin"],
            ["nvcc", "-ptx", f"-arch=compute_{arch}", *NVCC_FLAGS, name, "-o", f"{stem}.ptx"]]


def _refuse(name: str, where: str, log: str) -> NoReturn:
    said = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in said if re.search(r"error|fatal|unsupported", line)] or said
    raise FirstlightError(
        "F412", f"the CUDA compiler refuses {name}", where=where,
        why="; ".join(telling[:2]) or "it gave no reason",
        try_="firstlight targets    shows the compiler; --kernels generic leaves ours out",
    )
