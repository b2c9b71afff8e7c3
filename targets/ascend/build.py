"""An artifact's folder ``code``: texts, lowered modules, how to launch them, and how to finish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend.compiler import (
    FLAGS,
    LOWERED,
    PACKAGE,
    Lowered,
    compiler,
    lower,
    unlinked,
    warning,
)
from firstlight.targets.ascend.emit import Emitted, Module, emitted

THREADS = 2
HIVMC = ("--enable-hfusion-compile=true", "--enable-hivm-compile=true",
         "--enable-triton-kernel-compile=true", "--only-run-hivm-pipeline=false")


class Builder:
    """Kernels of one chip, lowered as far as this machine can; each distinct module once."""

    def __init__(self, chip: str) -> None:
        self.chip = chip
        self.lowered: dict[str, Lowered] = {}
        self.refused: dict[str, str] = {}

    def accept(self, module: Module, last: bool = False) -> str:
        """Lower a module and check its calls; why that cannot be, or "". Raises it for the last."""
        if module.name in self.refused and not last:
            return self.refused[module.name]
        if module.name not in self.lowered:
            try:
                lowered = lower(module.text, self.chip, module.name)
                self.linked(module.name, lowered)
            except FirstlightError as error:
                if last or error.code == "F473":
                    raise
                self.refused[module.name] = f"{error.code}: {error.why}"
                return self.refused[module.name]
            self.lowered[module.name] = lowered
        return ""

    def linked(self, name: str, lowered: Lowered) -> None:
        """Raise F476 if a function that a lowered module calls does not exist."""
        missing = list(unlinked(lowered.module))
        if missing:
            raise FirstlightError(
                "F476", f"a lowered kernel calls {missing[0]}, which does not exist", where=name,
                why="the compiler's own libraries have no such function: linking will fail",
                try_="another form of the op; what links is listed in docs/targets")

    def kernels(self, kernels: Mapping[str, Kernel], jobs: int | None = None
                ) -> dict[str, Emitted]:
        """All kernels emitted, and lowered where the compiler is here."""
        accept = self.accept if compiler() else None
        # TVM's objects are read by one thread; only the compiler's processes run side by side
        first = {name: emitted(kernels[name]) for name in sorted(kernels)}
        if accept is None:
            return first
        modules = {m.name: m for made in first.values() for m in made.modules}
        with ThreadPoolExecutor(jobs or THREADS) as pool:
            refused = [m for m, why in zip(modules, pool.map(accept, modules.values()),
                                           strict=True) if why]
        return {name: emitted(kernels[name], accept)
                if any(m.name in refused for m in made.modules) else made
                for name, made in first.items()}


def build(chip: str, kernels: Mapping[str, Kernel], folder: Path,
          jobs: int | None = None) -> Sequence[Path]:
    """Write ``code/``: see docs/targets/ascend-950.md for what is in it.

    Raises F474 to F476 for what the chip's compiler does not take. Without the compiler, texts and
    ``commands.txt`` are all there is.
    """
    builder = Builder(chip)
    made = builder.kernels(kernels, jobs)
    files: dict[str, str] = {}
    for one in made.values():
        files |= {f"mlir/{m.name}.mlir": m.text for m in one.modules}
    names = sorted({m.name for one in made.values() for m in one.modules})
    files |= {f"lowered/{n}.mlir": builder.lowered[n].module for n in names
              if n in builder.lowered}
    externs = {n: one.extern for n, one in sorted(made.items()) if one.extern is not None}
    files |= {f"extern/{name}.json": _json(binding) for name, binding in externs.items()}
    files["launch.json"] = _json(_table(names, list(externs), made, builder))
    files["build.sh"] = _script(chip, names, bool(builder.lowered))
    if names and not builder.lowered:
        files["commands.txt"] = "".join(
            f"{line}\n" for line in [f"pip install {PACKAGE}", "sh build.sh"])
    notes = [warning(), *(note for one in made.values() for note in one.notes),
             *(f"{name} is {binding['op']} of CANN, which has to be bound to it: nothing here "
               f"makes objects/{name}.o" for name, binding in externs.items())]
    if any(notes):
        files["notes.txt"] = "".join(f"{note}\n" for note in notes if note)
    code = folder / "code"
    for path, text in files.items():
        (code / path).parent.mkdir(parents=True, exist_ok=True)
        (code / path).write_text(text)
    return [code / path for path in sorted(files)]


def _table(names: Sequence[str], externs: Sequence[str], made: Mapping[str, Emitted],
           builder: Builder) -> dict[str, Any]:
    """``launch.json``: as docs/artifact.md has it, and what only this chip's launcher reads."""
    number = {name: i for i, name in enumerate([*names, *externs])}
    folder = "lowered" if builder.lowered else "mlir"
    records = {name: {**one.record, "launches": [
        {**launch, "module": number[launch["entry"]]} for launch in one.record["launches"]]}
        for name, one in made.items()}
    cores = {n: builder.lowered[n].core for n in names if n in builder.lowered}
    return {"schema": 1, "kernels": records,
            "modules": [*(f"{folder}/{n}.mlir" for n in names),
                        *(f"extern/{n}.json" for n in externs)],
            "chip": {"name": builder.chip, "cores": cores, "sync_block_locks": 0,
                     "arguments": "memories in order, then S and the grid's three sides as int32"}}


def _script(chip: str, names: Sequence[str], lowered: bool) -> str:
    """Shell that turns what is here into objects on a machine with CANN."""
    lines = ["#!/bin/sh", "# Finishes the kernels on a machine with CANN 9.1 or later: hivmc-a5 on "
             "PATH, and the package", f"# {PACKAGE} for its bitcode. Objects go to objects/.",
             "set -e", 'cd "$(dirname "$0")"',
             "home=$(python3 -c 'import importlib.util as u; "
             'print(u.find_spec("ascendnpuir").submodule_search_locations[0])\')',
             'ln -sfn "$home/lib" bitcode', "mkdir -p objects lowered"]
    if lowered:
        lines += ["# sh build.sh mlir: not from lowered/, all of it by this machine's compilers",
                  'if [ "$1" = mlir ]; then', "    for file in mlir/*.mlir; do",
                  '        name=$(basename "$file" .mlir)', '        [ -e "objects/$name.o" ] || '
                  f'"$home/bin/bishengir-compile-a5" "$file" --target={chip} {" ".join(FLAGS)} '
                  '-o "objects/$name.o"', "    done", "    exit", "fi"]
    for name in names:
        if not lowered:
            lines.append(f'"$home/bin/bishengir-compile-a5" mlir/{name}.mlir --target={chip} '
                         f"{' '.join(FLAGS)} --save-temps=lowered -o objects/{name}.o || true")
            # it fails where it does not find hivmc-a5, and has lowered the module all the same
            lines.append(f"mv lowered/{LOWERED} lowered/{name}.mlir")
        lines.append(f"[ -e objects/{name}.o ] || hivmc-a5 lowered/{name}.mlir --target={chip} "
                     f"{' '.join(HIVMC)} -o objects/{name}.o")
    return "\n".join(lines) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
