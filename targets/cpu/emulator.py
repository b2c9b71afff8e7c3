"""Kernels of a foreign CPU, run here by qemu's user mode: one process, called through pipes."""

from __future__ import annotations

import functools
import mmap
import re
import shutil
import struct
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Tool, place
from firstlight.targets.cpu.code import Code
from firstlight.targets.cpu.toolchain import MACHINES

SERVER = Path(__file__).with_name("server.c")
CPUS = {
    "aarch64": "max",
    "riscv64": "rv64,v=true,vext_spec=v1.0,vlen=128",
}
"""-cpu of qemu by architecture: vectors are as short as the instruction set allows."""


def qemu(arch: str) -> list[str] | None:
    """The command that runs a static program of another architecture, if it is installed."""
    for name in (f"qemu-{arch}", f"qemu-{arch}-static"):
        if path := shutil.which(name):
            return [path, "-cpu", CPUS[arch]]
    return None


def tool(arch: str) -> Tool:
    """The emulator in a target's list of tools."""
    found = qemu(arch)
    return Tool(f"qemu-{arch}", found[0] if found else None,
                "make chip-tools    or    apt-get install qemu-user",
                _version(found[0]) if found else "")


@functools.cache
def _version(program: str) -> str:
    """What it says of itself, as `7.2.22`."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\S+)", said)
    return found[1] if found else ""


def emulate(code: Code, kernels: Mapping[str, Kernel], folder: Path) -> Emulated | None:
    """The kernels as a program that serves calls; None without qemu for this architecture."""
    command = qemu(MACHINES[code.march].arch)
    if command is None:
        return None
    program = folder / "kernels"
    code.executable(kernels, SERVER, program)
    return Emulated([*command, str(program)], sorted(kernels))


CHANGED, READ, KEEP, KEPT, SAME = range(5)
"""What the server does with a buffer; see server.c."""


class Emulated:
    """A `firstlight.codegen.target.Executor` in a process under qemu. server.c has the protocol.

    An array over a file mapped for reading cannot change: it is sent once, and the server keeps it.
    """

    def __init__(self, command: Sequence[str], kernels: Sequence[str]) -> None:
        self._index = {name: i for i, name in enumerate(kernels)}
        self._command = command
        self._start()

    def _start(self) -> None:
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._send, self._answer = process, process.stdin, process.stdout
        self._kept: dict[int, tuple[int, NDArray[Any]]] = {}
        self.close = weakref.finalize(self, _end, process)

    def run(self, symbol: str, buffers: Sequence[NDArray[Any]], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S. RuntimeError with what it reports."""
        try:
            self._send.write(struct.pack("<3q", self._index[symbol], tokens, len(buffers)))
            given: dict[tuple[int, int], int] = {}
            for number, buffer in enumerate(buffers):
                first = given.setdefault(place(buffer), number)
                if first < number:
                    self._send.write(struct.pack("<2q", SAME, first))
                else:
                    self._give(buffer)
            self._send.flush()
            (length,) = struct.unpack("<q", _exactly(self._answer, 8))
            if length:
                raise RuntimeError(f"{symbol}: {_exactly(self._answer, length).decode()}")
            for number, buffer in enumerate(buffers):
                if buffer.flags.writeable and given[place(buffer)] == number:
                    data = np.frombuffer(_exactly(self._answer, buffer.nbytes), buffer.dtype)
                    buffer[...] = data.reshape(buffer.shape)
        except (BrokenPipeError, EOFError) as error:
            self.close()
            status = self._process.returncode
            self._start()       # one kernel ended it; the others can still be called
            raise RuntimeError(f"{symbol}: the emulated process ended with {status}") from error

    def _give(self, buffer: NDArray[Any]) -> None:
        if found := self._kept.get(id(buffer)):
            self._send.write(struct.pack("<2q", KEPT, found[0]))
            return
        kind = CHANGED if buffer.flags.writeable else KEEP if unchanging(buffer) else READ
        if kind == KEEP:        # with the array, whose id is its own as long as it lives
            self._kept[id(buffer)] = len(self._kept), buffer
        self._send.write(struct.pack("<2q", kind, buffer.nbytes))
        self._send.write(np.ascontiguousarray(buffer).tobytes())


def unchanging(buffer: NDArray[Any]) -> bool:
    """Whether its memory is a file mapped for reading."""
    base: Any = buffer
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return isinstance(base, mmap.mmap)


def _exactly(stream: BinaryIO | Any, nbytes: int) -> bytes:
    data: bytes = stream.read(nbytes)
    if len(data) != nbytes:
        raise EOFError
    return data


def _end(process: subprocess.Popen[bytes]) -> None:
    """At the end of its input the server ends by itself."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    process.stdout.close()
    process.wait()
