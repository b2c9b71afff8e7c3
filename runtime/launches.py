"""``code/launch.json``: which functions of a device make up a kernel, and how they are launched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import ARENA, STATE, TOKENS, WEIGHT, Program
from firstlight.runtime.sizes import COUNT, MOST, Size, value

FILE = "code/launch.json"
WORKSPACE, LOCKS = "w", "l"


@dataclass(frozen=True)
class Launch:
    """One launch.

    ``args``: the number of a pointer of the kernel, "w" (workspace), "l" (locks between groups: so
    many words of 8 bytes, zero when the launch begins) or "S".
    """

    entry: str
    module: int
    grid: tuple[Size, ...]
    group: tuple[int, ...]
    shared: int
    args: tuple[int | str, ...]
    locks: int = 0


@dataclass(frozen=True)
class KernelLaunches:
    """A kernel: so many pointers, bytes of workspace, and its launches in order."""

    pointers: int
    workspace: Size
    launches: tuple[Launch, ...]


@dataclass(frozen=True)
class LaunchTable:
    """Files of device code in the folder ``code``, and the kernels by name."""

    modules: tuple[str, ...]
    kernels: Mapping[str, KernelLaunches]

    def entries(self, module: int) -> list[str]:
        """The functions that a module must have."""
        return sorted({launch.entry for kernel in self.kernels.values()
                       for launch in kernel.launches if launch.module == module})  # fmt: skip


def read_launches(manifest: Manifest, program: Program) -> LaunchTable:
    """Read ``launch.json`` and hold it against the program that uses its kernels.

    Raises F502 for anything that a launcher could not use.
    """
    path = manifest.path(FILE)
    try:
        table = table_of(json.loads(path.read_bytes()))
        for module in table.modules:
            manifest.path(module)
        _check_program(table, program)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError,
            ZeroDivisionError, OverflowError) as error:  # fmt: skip
        raise malformed(path, f"launch.json makes no sense: {error!r}") from error
    return table


def table_of(document: Mapping[str, Any]) -> LaunchTable:
    """The table in a document; ValueError, KeyError or TypeError where it is none."""
    if document["schema"] != 1:
        raise ValueError(f"schema {document['schema']!r} is not 1")
    modules = tuple(f"code/{name}" for name in _list(document["modules"], str))
    kernels = {name: _kernel(name, record, len(modules))
               for name, record in document["kernels"].items()}  # fmt: skip
    return LaunchTable(modules, kernels)


def _kernel(name: str, record: Mapping[str, Any], modules: int) -> KernelLaunches:
    launches = []
    pointers = _number(record["pointers"], 0)
    for row in record["launches"]:
        grid, group = tuple(row["grid"]), tuple(_number(n) for n in row["group"])
        if not (1 <= len(grid) <= 3 and 1 <= len(group) <= 3):
            raise ValueError(f"kernel {name} is launched in no dimension that there is")
        args, locks = tuple(row["args"]), _number(row.get("locks", 0), 0)
        names = (WORKSPACE, COUNT, LOCKS) if locks else (WORKSPACE, COUNT)
        for arg in args:
            if arg not in names and not (type(arg) is int and 0 <= arg < pointers):
                raise ValueError(f"kernel {name} is given {arg!r}")
        module = _number(row["module"], 0)
        if module >= modules or not isinstance(row["entry"], str):
            raise ValueError(f"kernel {name} is in no module")
        launches.append(Launch(row["entry"], module, grid, group, _number(row["shared"], 0), args,
                               locks))  # fmt: skip
    return KernelLaunches(pointers, record["workspace"], tuple(launches))


def _check_program(table: LaunchTable, program: Program) -> None:
    """Every kernel is there, is given what it takes, and has sizes for any number of tokens."""
    most = {name: 1 for name in program.kernels}
    for entry in program.entries.values():
        for step, index in enumerate(entry.kernel.tolist()):
            name = program.kernels[index]
            kernel, first = table.kernels[name], int(entry.first[step])
            spaces = entry.space[first : first + int(entry.count[step])]
            if (spaces.size != kernel.pointers + 1 or spaces[-1] != TOKENS
                    or not np.isin(spaces[:-1], (ARENA, WEIGHT, STATE)).all()):  # fmt: skip
                raise ValueError(f"kernel {name} takes {kernel.pointers} pointers and S")
            most[name] = max(most[name], entry.max_tokens)
    for name, tokens in most.items():
        kernel = table.kernels[name]
        for size in (kernel.workspace, *(n for launch in kernel.launches for n in launch.grid)):
            for count in {1, tokens}:
                value(size, count)


def _list(values: Any, kind: type) -> list[Any]:
    if not isinstance(values, list) or not all(isinstance(v, kind) for v in values):
        raise ValueError(f"{values!r} is no list of {kind.__name__}")
    return values


def _number(number: Any, least: int = 1) -> int:
    if type(number) is not int or not least <= number < MOST:
        raise ValueError(f"{number!r} is no number from {least}")
    return number
