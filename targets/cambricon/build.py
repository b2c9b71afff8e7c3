"""What the owner of a card gets: sources, the commands for the machine with cncc, how to launch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.sources import write_sources
from firstlight.codegen.target import Source
from firstlight.targets.cambricon.chips import CHIPS, RESERVED, Chip

FLAGS = "-O3 -std=c++17 -fPIC"
CLASSES = {"block": 1, "union1": 4, "union2": 8, "union4": 16, "union8": 32}
"""Cores of a launch by its type: so the driver's classes are numbered."""
ALL, FATBIN = "kernels.mlu", "kernels.cnfatbin"
"""All kernels, and what a machine with cncc makes of them for the driver."""


def build(chip: Chip, emit: Callable[[Kernel], Source], kernels: Mapping[str, Kernel],
          folder: Path) -> Sequence[Path]:
    """Write the sources of all kernels, ``launch.json``, ``build.sh`` and ``commands.txt``."""
    made: dict[str, Source] = {}

    def kept(kernel: Kernel) -> Source:
        made[kernel.name] = emit(kernel)
        return made[kernel.name]

    lines = commands(sorted(kernels), chip)
    written = list(write_sources(kernels, kept, folder, lambda path: lines.get(path, "")))
    code = folder / "code"
    texts = {
        ALL: together({n: s.files[f"{n}.mlu"].decode() for n, s in sorted(made.items())}),
        "build.sh": script(sorted(kernels), architectures(chip, made)),
        "launch.json": json.dumps(launches(made), indent=1, sort_keys=True) + "\n",
    }
    for name, text in texts.items():
        (code / name).write_text(text)
        written.append(code / name)
    (code / "build.sh").chmod(0o755)
    return written


def together(texts: Mapping[str, str]) -> str:
    """Kernels as one file. They share their arrays: whether a compiler gives each kernel of a file
    the whole of NRAM is not documented."""
    most: dict[str, int] = {}
    lines = []
    for name, text in texts.items():
        used: dict[str, int] = {}
        for memory, kind, array, size in re.findall(
                rf"^(__\w+__) (\w+) {name}_(\w+)\[(\d+)\];$", text, re.M):
            # no place inside of a matrix in WRAM is known: there each array is one of its own
            shared = array if memory == "__wram__" else memory.strip("_")
            declared = f"{memory} {kind} firstlight_{shared}"
            at = used.get(declared, 0)
            place = f"firstlight_{shared}" + f" + {at}" * (at > 0)
            lines.append(f"#define {name}_{array} ({place})")
            used[declared] = at + int(size)
        for declared, size in used.items():
            most[declared] = max(most.get(declared, 0), size)
    arrays = [f"{declared}[{size}];" for declared, size in sorted(most.items())]
    return "\n".join(["#define FIRSTLIGHT_TOGETHER", "#include <bang.h>", *arrays, *lines,
                      *(f'#include "{name}.mlu"' for name in texts), ""])


def commands(names: Sequence[str], chip: Chip) -> dict[str, str]:
    """The line that compiles each kernel for one architecture."""
    return {f"{name}.mlu": f"cncc {name}.mlu -c --bang-mlu-arch=mtp_{chip.arch} {FLAGS} "
                           f"-DFIRSTLIGHT_LAUNCHERS -o {name}.o" for name in names}


def architectures(chip: Chip, sources: Mapping[str, Source]) -> list[int]:
    """The chip's own, and others that have all that the kernels use."""
    def fits(other: Chip) -> bool:
        return other == chip or (other.division >= chip.division and all(
            s.resources["nram_bytes"] <= other.nram - RESERVED
            and s.resources["wram_bytes"] <= other.wram for s in sources.values()))

    return [other.arch for other in CHIPS if fits(other)]


def script(names: Sequence[str], archs: Sequence[int]) -> str:
    """``build.sh``: a fat binary of all kernels, or objects with C launchers."""
    flags = " ".join([*(f"--bang-mlu-arch=mtp_{arch}" for arch in archs), FLAGS])
    return "\n".join([
        "#!/bin/sh",
        "# On the machine with CNToolkit: sh build.sh            the fat binary that is loaded",
        "#                                sh build.sh objects    one per kernel, with a C launcher",
        "set -e", 'cd "$(dirname "$0")"', 'CNCC="${CNCC:-cncc}"',
        'if [ "$1" = objects ]; then',
        *[f'    "$CNCC" {name}.mlu -c {flags} -DFIRSTLIGHT_LAUNCHERS -o {name}.o'
          for name in names],
        "    exit", "fi", f'"$CNCC" {ALL} --bang-fatbin-only {flags} -o {FATBIN}', ""])


def launches(sources: Mapping[str, Source]) -> dict[str, Any]:
    """The launch table, as `firstlight.runtime.launches` reads it: a group is the cores that must
    be free together, one for Block tasks."""
    kernels = {}
    for name, source in sources.items():
        launch = source.launch
        count = launch["pointers"]
        kernels[name] = {
            "pointers": count, "workspace": launch["workspace"],
            "launches": [{"entry": source.entry, "module": 0, "grid": list(launch["dim"]),
                          "group": [CLASSES[launch["type"]]], "shared": 0,
                          "args": [*range(count), "w", "S"]}]}
    return {"schema": 1, "modules": [ALL], "kernels": kernels}
