"""What this machine's CPU can do, from /proc/cpuinfo."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.runtime.errors import FirstlightError

_CPUINFO = Path("/proc/cpuinfo")


def architecture() -> str:
    """The machine's architecture in Linux spelling, such as "x86_64" or "aarch64"."""
    return platform.machine()


def features() -> frozenset[str]:
    """The instruction set extensions of this CPU in Linux spelling ("avx2", "fma", "asimddp").

    Empty where /proc/cpuinfo cannot be read.
    """
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def model() -> str:
    """The processor's name, or its architecture where the system does not say."""
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return architecture()


def usable_cores() -> int:
    """Cores this process may run on (its affinity mask)."""
    return len(os.sched_getaffinity(0))


def check(requires: Mapping[str, Any], where: str) -> None:
    """Raise F510 unless this CPU has what an artifact requires.

    ``requires`` is ``{"arch": "x86_64", "features": ["avx2", ...]}``; a CPU may have more.
    """
    arch, wanted = requires.get("arch", architecture()), requires.get("features", ())
    missing = sorted(set(wanted) - features())
    if arch == architecture() and not missing:
        return
    why = f"it has no {', '.join(missing)}" if arch == architecture() else f"it is {architecture()}"
    raise FirstlightError(
        "F510",
        f"this CPU cannot run the artifact, which needs {arch} {' '.join(wanted)}".rstrip(),
        where=where,
        why=why,
        try_="firstlight compile CHECKPOINT --target cpu    on this machine",
    )
