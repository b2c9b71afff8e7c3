"""Huge pages: 2 MiB at once, where a core would look up an address for every 4 KiB."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

from firstlight.runtime.errors import FirstlightError

HUGE = 2 << 20
SETTING = "FIRSTLIGHT_HUGE_PAGES"
"""Environment variable: 1 and 0 decide for weights, 0 for states; else `pay` does."""
WORTH = 32 << 20
"""Bytes from which on they pay: addresses of less are in the caches of addresses."""

_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def setting() -> str:
    """What the user wants: "1", "0", or "" for what is best. Raises F512 for anything else."""
    found = os.environ.get(SETTING, "")
    if found not in ("", "0", "1"):
        raise FirstlightError(
            "F512", f"{SETTING}={found!r} is not a setting", where="the environment",
            why="it must be 1 (copy weights into huge pages) or 0 (map their files, no huge pages "
                "for states)",
            try_=f"unset {SETTING}    to let sizes decide")
    return found


def pay(nbytes: int) -> bool:
    """Whether so many bytes should be in huge pages, if nobody has said otherwise."""
    return nbytes >= WORTH and _available()


def advise(room: mmap.mmap, start: int, size: int) -> None:
    """Ask for huge pages from the first boundary of a page on."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    with suppress(OSError, AttributeError):     # a system that has none: pages of 4 KiB do
        room.madvise(mmap.MADV_HUGEPAGE, first, max(size - (first - start), 0))


def _available() -> bool:
    """Whether the system gives huge pages to who asks for them."""
    try:
        return hasattr(mmap, "MADV_HUGEPAGE") and "[never]" not in _THP.read_text()
    except OSError:
        return False
