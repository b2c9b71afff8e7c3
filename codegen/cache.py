"""Things that took long to make, found again by the hash of what they were made from."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "FIRSTLIGHT_CACHE"
"""Environment: another folder, or ``off``."""
MOST_BYTES = 1 << 29


class Cache:
    """Files by key, the least recently used removed when there are too many bytes.

    Several processes may use it at a time. A cache that cannot be read or written is an empty one:
    it never fails. None as its folder keeps nothing.
    """

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def fetch(self, key: str, path: Path) -> bool:
        """Copy what is kept under `key` to `path`, if there is something."""
        if self.folder is None:
            return False
        try:
            shutil.copyfile(self.folder / key, path)
            os.utime(self.folder / key)
        except OSError:
            return False
        return True

    def keep(self, key: str, path: Path) -> None:
        """Keep a copy of the file `path`, which appears whole or not at all."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix="new-")
            os.close(handle)
            try:
                shutil.copyfile(path, name)
                os.replace(name, self.folder / key)
            finally:
                Path(name).unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove what was not used for longest, until the rest fits."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            files = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in self.folder.iterdir())
            excess = sum(size for _, size, _ in files) - self.most_bytes
            for _, size, file in files:
                if excess <= 0:
                    break
                file.unlink(missing_ok=True)
                excess -= size


def user_cache(kind: str) -> Cache:
    """The user's own cache of one kind of files: ``~/.cache/firstlight/KIND``, or as `VARIABLE`
    and XDG_CACHE_HOME say."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return Cache(None)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Cache(Path(wanted or Path(home, "firstlight")) / kind)
