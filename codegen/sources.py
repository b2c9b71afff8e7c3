"""A build where the tool chain is somewhere else: sources, and what to do with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Source
from firstlight.runtime.errors import FirstlightError

COMMANDS = "commands.txt"


def write_sources(kernels: Mapping[str, Kernel], emit: Callable[[Kernel], Source], folder: Path,
                  command: Callable[[str], str]) -> list[Path]:
    """Write the sources of all kernels and ``commands.txt`` to the artifact's folder ``code``.

    Args:
        command: file name -> the line that compiles it on a machine with the tool chain, run in
            the folder ``code``; "" for a file that is only included.

    Raises F406 if two kernels have different files of one name.
    """
    files: dict[str, bytes] = {}
    for name in sorted(kernels):
        for path, data in emit(kernels[name]).files.items():
            if files.setdefault(path, data) != data:
                raise FirstlightError(
                    "F406", f"two kernels emit different files named {path}", where=name,
                    why="all sources of an artifact lie in one folder",
                    try_="put the kernel's symbol into the name",
                )
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    lines = [line for path in sorted(files) if (line := command(path))]
    files[COMMANDS] = "".join(f"{line}\n" for line in lines).encode()
    for path, data in files.items():
        (code / path).parent.mkdir(parents=True, exist_ok=True)
        (code / path).write_bytes(data)
    return [code / path for path in sorted(files)]
