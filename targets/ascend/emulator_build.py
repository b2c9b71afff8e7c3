"""From a kernel's MLIR to a shared object of this machine, by way of the chip's own compiler.

The chip's compiler lowers the text and prints it before its last conversion; `rewrite` turns that
into upstream MLIR, and LLVM's tools make code of it. What was built is kept in the compiler's cache
folder, under a hash of everything it is made from.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight.codegen.target import Tool
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend.compiler import cache, compiler, lower
from firstlight.targets.ascend.rewrite import Entry, rewrite

HERE = Path(__file__).parent
PASSES = ("--lower-affine", "--canonicalize", "--convert-vector-to-scf",
          "--expand-strided-metadata", "--lower-affine", "--convert-scf-to-cf",
          "--arith-expand=include-bf16=true", "--convert-vector-to-llvm",
          "--convert-math-to-llvm", "--convert-math-to-libm", "--finalize-memref-to-llvm",
          "--convert-func-to-llvm", "--convert-index-to-llvm", "--convert-arith-to-llvm",
          "--convert-cf-to-llvm", "--reconcile-unrealized-casts")
CLANG = ("clang++-19", "-w", "-O1", "-fPIC", "-march=native")
SECONDS = 120


@dataclass(frozen=True)
class Built:
    """A kernel as code of this machine: the shared object, its entries, what it takes on trust."""

    path: Path
    entries: tuple[Entry, ...]
    beliefs: tuple[str, ...]


def tools() -> list[Tool]:
    """What emulation needs besides the chip's compiler."""
    return [Tool(name, shutil.which(name), "make ascend-tools")
            for name in ("mlir-opt-19", "mlir-translate-19", "clang++-19", "ld")]


def lacking() -> list[str]:
    """Names of the tools that are not here."""
    return [tool.name for tool in tools() if tool.found is None] + (
        [] if compiler() else ["bishengir-compile-a5"])


def build(text: str, chip: str, where: str) -> Built:
    """A kernel's MLIR as a shared object; `where` names it in errors.

    Raises what `lower` raises, F471 for lowered code that is unknown, and F472 for a tool.
    """
    module = rewrite(lower(text, chip, where).snapshot)
    starts = "\n".join(_start(e) for e in module.entries)
    key = "\0".join([module.text, starts, *PASSES, *CLANG, _machine()])
    path = cache() / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.so"
    if not path.exists():
        _compile(module.text, starts, path)
    return Built(path, module.entries, module.beliefs)


def shims() -> ctypes.CDLL:
    """emulator.cpp, loaded so that kernels find its functions."""
    source = HERE / "emulator.cpp"
    key = hashlib.sha256("\0".join([source.read_text(), *CLANG, _machine()]).encode())
    path = cache() / f"shims-{key.hexdigest()[:40]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            out = Path(folder, path.name)
            _run([*CLANG, "-O2", "-std=c++17", "-shared", str(source), "-o", str(out),
                  "-Wl,--no-as-needed", "-lm", "-lpthread"])
            out.replace(path)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def _machine() -> str:
    """What compiled code depends on besides its text: the CPU, and LLVM's tools."""
    words = [platform.machine()]
    for tool in tools():
        stat = os.stat(tool.found or "")
        words.append(f"{stat.st_size} {stat.st_mtime_ns}")
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        words += [line for line in cpu.read_text().splitlines()
                  if line.startswith(("flags", "Features"))][:1]
    return "\n".join(words)


def _compile(text: str, starts: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        (folder / "kernel.mlir").write_text(text)
        _run(["mlir-opt-19", str(folder / "kernel.mlir"), *PASSES, "-o", str(folder / "llvm.mlir")])
        _run(["mlir-translate-19", "--mlir-to-llvmir", str(folder / "llvm.mlir"), "-o",
              str(folder / "kernel.ll")])
        with (folder / "kernel.ll").open("a") as file:
            file.write(starts)
        _run([*CLANG, "-c", str(folder / "kernel.ll"), "-o", str(folder / "kernel.o")])
        # the driver would take ten times as long; mathematics come from where the shims are
        _run(["ld", "-shared", "-Bsymbolic", str(folder / "kernel.o"), "-o",
              str(folder / path.name)])
        (folder / path.name).replace(path)


def _start(entry: Entry) -> str:
    """LLVM IR of a function that calls an entry with memories and scalars from two arrays."""
    lines, values, memories, scalars = [], [], 0, 0
    for i, kind in enumerate([*entry.arguments, *["memref"] * 3]):
        if kind.startswith("memref"):
            lines += [f"%p{i} = getelementptr ptr, ptr %m, i64 {memories}",
                      f"%v{i} = load ptr, ptr %p{i}"]
            values.append(f"ptr %v{i}")
            memories += 1
        else:
            lines += [f"%p{i} = getelementptr i64, ptr %s, i64 {scalars}",
                      f"%v{i} = load {kind}, ptr %p{i}"]      # of an i64: its low part
            values.append(f"{kind} %v{i}")
            scalars += 1
    body = "\n".join(f"  {line}" for line in lines)
    return (f"\ndefine void @start_{entry.name}(ptr %m, ptr %s) {{\n{body}\n"
            f"  call void @_mlir_ciface_{entry.name}({', '.join(values)})\n  ret void\n}}\n")


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise _failed(Path(command[0]).name, f"not done after {SECONDS} s") from None
    if done.returncode:
        raise _failed(Path(command[0]).name, done.stderr or f"status {done.returncode}")


def _failed(who: str, said: str) -> FirstlightError:
    lines = [line.strip() for line in said.splitlines() if "error" in line or "Assertion" in line]
    return FirstlightError("F472", f"{who} refuses a kernel", where=who,
                           why=(lines or said.strip().splitlines() or ["it says nothing"])[0][:500],
                           try_="firstlight targets    shows the tool chains")
