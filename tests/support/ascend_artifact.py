"""What a machine with a card would do with an artifact, without the card.

`finish_with_stand_in` runs the artifact's own build.sh, with a program in the place of hivmc-a5
that reads what it is given and writes an object for the fake; `by_emulator` runs the launches of
the fake from their lowered form.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from firstlight.targets.ascend.emulator import Emulator
from support.fake_acl import Executor

HIVMC = '''#!{python}
"""Reads a lowered module, as hivmc-a5 would, and writes what its entries take."""
import json, re, sys
from pathlib import Path
source, *options = sys.argv[1:]
assert source.endswith(".mlir") and not Path(source).is_absolute() or "/tmp" in source, source
assert any(o.startswith("--target=Ascend950") for o in options), options
assert "--enable-triton-kernel-compile=true" in options, options
text = Path(source).read_text()
for bitcode in re.findall(r'bitcode<"([^"]*)"', text):
    assert Path(bitcode).exists(), bitcode
kind = re.search(r"module_core_type<(\\w+)>", text)[1].lower()
found = {{}}
entries = r"func.func @(\\w+)\\((.*?)\\) attributes {{[^\\n]*hacc.entry,"
for name, arguments in re.findall(entries, text):
    memories, words = arguments.count(": memref<"), arguments.count(": i32")
    found[re.sub("_mix_ai[cv]$", "", name)] = memories, words
assert len(found) == 1, found
out = Path(options[options.index("-o") + 1])
out.write_bytes(b"\\x7fELF" + json.dumps({{"kind": kind, "functions": found}}).encode())
with open("{log}", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
'''


def finish_with_stand_in(artifact: Path, scratch: Path, *arguments: str) -> list[str]:
    """Run code/build.sh from another folder; the command lines that the stand-in saw."""
    program, log = scratch / "bin/hivmc-a5", scratch / "log"
    program.parent.mkdir(parents=True)
    program.write_text(HIVMC.format(python=sys.executable, log=log))
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent),
                            os.environ["PATH"]])
    done = subprocess.run(["sh", str(artifact / "code/build.sh"), *arguments], text=True,
                          capture_output=True, cwd=scratch, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


def by_emulator(artifact: Path) -> Executor:
    """Every kernel of an artifact, lowered again from its text and run from that form."""
    table = json.loads((artifact / "code/launch.json").read_text())
    texts = {}
    for record in table["kernels"].values():
        for launch in record["launches"]:
            entry, count = launch["entry"], sum(a != "S" for a in launch["args"])
            texts[entry] = ((artifact / f"code/mlir/{entry}.mlir").read_text(),
                            {"launches": [{**launch, "args": [*range(count), "S"]}]})
    emulator = Emulator(texts, table["chip"]["name"])
    assert emulator.refused == {}

    def execute(name: str, blocks: int, memories: list[np.ndarray], numbers: list[int]) -> None:
        emulator.run(name, memories, numbers[0])

    return execute
