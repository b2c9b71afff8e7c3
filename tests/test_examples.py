"""The examples run."""

import json
import subprocess
import sys
from pathlib import Path

from firstlight.examples import TINY_V4


def test_generate(tiny_artifact: Path, tmp_path: Path):
    first = json.loads((TINY_V4 / "expected.json").read_text())["prompts"][0]
    done = subprocess.run(
        [sys.executable, TINY_V4 / "generate.py", tiny_artifact, first["text"]],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == first["greedy_text"] + "\n"
