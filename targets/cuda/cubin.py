"""What kernels use of the chip, read from a cubin: an ELF file with notes about each kernel."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MACHINE = 190
"""EM_CUDA of the ELF header."""
NOTES, SHARED = ".nv.info", ".nv.shared."
REGISTERS, STACK, PARAMETER = 0x2F, 0x11, 0x17
"""EIATTR_REGCOUNT and EIATTR_FRAME_SIZE (of all kernels, in .nv.info), EIATTR_KPARAM_INFO (in
.nv.info.KERNEL)."""
SIZED = 4
"""The format of a note whose contents follow; the others have two bytes in place of the size."""


@dataclass
class KernelInfo:
    """A kernel of a cubin.

    Attributes:
        registers: of a thread.
        stack_bytes: memory of a thread for what has no register: its arrays, and spills.
        shared_bytes: of a group, fixed.
        parameters: their sizes in bytes, in order.
    """

    registers: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    parameters: list[int] = field(default_factory=list)


class Section(NamedTuple):
    """A section of an ELF file; `data` is empty where the file has none of it."""

    name: str
    size: int
    info: int
    data: bytes


def kernels(cubin: bytes) -> dict[str, KernelInfo]:
    """Every kernel by name. Raises ValueError for bytes that are no cubin."""
    try:
        return _kernels(_sections(cubin))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"this is no cubin: {error}") from error


def _kernels(sections: list[Section]) -> dict[str, KernelInfo]:
    by_name = {section.name: section for section in sections}
    symbols = _symbols(by_name)
    found = {s.name.removeprefix(NOTES + "."): KernelInfo() for s in sections
             if s.name.startswith(NOTES + ".")}
    for kind, data in _notes(by_name[NOTES].data) if NOTES in by_name else ():
        if kind in (REGISTERS, STACK):
            symbol, value = struct.unpack("<II", data[:8])
            if symbols[symbol] in found:
                name = "registers" if kind == REGISTERS else "stack_bytes"
                setattr(found[symbols[symbol]], name, value)
    for kernel, info in found.items():
        sizes = {}
        for kind, data in _notes(by_name[f"{NOTES}.{kernel}"].data):
            if kind == PARAMETER:
                _, ordinal, _, packed = struct.unpack("<IHHI", data[:12])
                sizes[ordinal] = packed >> 18
        info.parameters = [sizes[i] for i in sorted(sizes)]
        if SHARED + kernel in by_name:
            info.shared_bytes = by_name[SHARED + kernel].size
    return found


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, contents) of each note."""
    at = 0
    while at + 4 <= len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, at)
        size = value if form == SIZED else 0
        yield attribute, data[at + 4: at + 4 + size]
        at += 4 + size


def _symbols(sections: dict[str, Section]) -> list[str]:
    table, names = sections[".symtab"].data, sections[".strtab"].data
    return [_text(names, name) for name, *_ in struct.iter_unpack("<IBBHQQ", table)]


def _sections(cubin: bytes) -> list[Section]:
    if len(cubin) < 64 or cubin[:4] != b"\x7fELF":
        raise ValueError("this is no cubin: it is no ELF file")
    (machine,) = struct.unpack_from("<H", cubin, 18)
    if machine != MACHINE:
        raise ValueError(f"this is no cubin: it is for machine {machine}")
    (start,) = struct.unpack_from("<Q", cubin, 40)
    each, count, names = struct.unpack_from("<HHH", cubin, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", cubin, start + i * each) for i in range(count)]
    contents = [b"" if row[1] == 8 else cubin[row[4]: row[4] + row[5]] for row in rows]  # NOBITS
    return [Section(_text(contents[names], row[0]), row[5], row[7], data)
            for row, data in zip(rows, contents, strict=True)]


def _text(table: bytes, at: int) -> str:
    return table[at: table.index(b"\0", at)].decode()
