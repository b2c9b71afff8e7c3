"""Level build: the tool chain takes all kernels, or says which commands would."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from firstlight.codegen.apart import Died, run_apart
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Target
from firstlight.targets.conform.report import Check
from firstlight.targets.conform.units import Unit

COMMANDS = "code/commands.txt"
"""What a target writes whose tool chain is not here: the exact command lines."""


def check_build(target: Target, units: Mapping[str, Sequence[Unit]], scratch: Path,
                commands: list[str]) -> Iterator[Check]:
    """A check per op; all kernels are built at once, and op by op only if that fails.

    Commands that a target leaves for elsewhere are added to `commands`; the ops are then skipped.
    """
    kernels = {op: {k.name: k for u in some for k in u.kernels} for op, some in units.items()}
    together = {name: kernel for some in kernels.values() for name, kernel in some.items()}
    problem, found = _build(target, together, scratch)
    commands += found
    for op, some in kernels.items():
        check = Check(op, "build", len(some), missing=target.lacking.get(op, ""))
        if problem and some:
            own, _ = _build(target, some, scratch)
            check.problems += [own] if own else []
        if found and some:
            check.skips.append("not here: the tool chain is missing, and the commands are listed")
        yield check
    if problem and len(kernels) > 1:
        yield Check("all kernels together", "build", len(together), [problem])


def _build(target: Target, kernels: Mapping[str, Kernel], scratch: Path) -> tuple[str, list[str]]:
    """(what went wrong, commands for elsewhere)."""
    if not kernels:
        return "", []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work, temporary = Path(folder, "artifact"), Path(folder, "temporary")
        work.mkdir()
        temporary.mkdir()
        try:
            run_apart(lambda: _written(target.build(kernels, work, None), work), temporary)
        except Died as error:
            return f"the build died: {error}", []
        except Exception as error:      # whatever a port raises is a finding about the port
            return f"{type(error).__name__}: {error}", []
        listed = work / COMMANDS
        return "", listed.read_text().splitlines() if listed.is_file() else []


def _written(paths: Sequence[Path], folder: Path) -> None:
    """Raise where a target does not have the files it says it wrote."""
    files = list(paths)
    lost = [path for path in files if not path.is_file() or folder not in path.parents]
    if lost or not files:
        raise FileNotFoundError(f"what it says it wrote is not in the artifact: "
                                f"{', '.join(map(str, lost)) or 'nothing'}")
