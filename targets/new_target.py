"""`firstlight new-target NAME`: a package to start a port from."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from firstlight.runtime.errors import FirstlightError

TEMPLATES = Path(__file__).with_name("template")
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "$package/__init__.py": "manifest.py",
    "$package/emit.py": "emit.py",
    "$package/words.h": "words.h",
    "tests/test_conform.py": "test_conform.py",
    ".github/workflows/test.yml": "ci.yml",
}
"""Where each template goes."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40


def new_target(name: str, parent: Path, taken: frozenset[str] = frozenset()) -> Path:
    """Write the package ``firstlight-NAME`` to the folder NAME in `parent`.

    Args:
        taken: names that installed targets have.

    Raises F433 for a name that cannot be one, and F434 if something is in the way. Either the whole
    folder is written or nothing.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise _bad_name(name, f"a name is at most {LONGEST} of a-z, 0-9 and - between them, and "
                              "begins with a letter")
    if name in taken:
        raise _bad_name(name, "an installed target has this name, and two of one name are an error")
    folder = parent / name
    if os.path.lexists(folder):
        raise FirstlightError(
            "F434", f"{name} is in the way", where=str(folder.absolute()),
            why="it exists, and nothing is overwritten", try_="another name, or another folder",
        )
    words = {"name": name, "package": f"firstlight_{name.replace('-', '_')}"}
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        for path, template in FILES.items():
            out = scratch / Template(path).substitute(words)
            out.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATES / f"{template}.tmpl").read_text(encoding="utf-8")
            out.write_text(Template(text).substitute(words), encoding="utf-8")
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _bad_name(name: str, why: str) -> FirstlightError:
    return FirstlightError("F433", f"{name!r} cannot be the name of a target",
                           where=f"firstlight new-target {name}", why=why,
                           try_="firstlight new-target mychip")
