"""The hazard checker: does a lowered kernel order everything that touches the same bytes?

It reads the flags, barriers and addresses that the chip's compiler planned; the emulator runs one
thing after another and can see none of them. One block is looked at: what different blocks do to
each other is the kernel author's promise, not the compiler's.
"""

from __future__ import annotations

from firstlight.targets.ascend.hazards_events import Part
from firstlight.targets.ascend.hazards_order import Finding, hazards, order
from firstlight.targets.ascend.hazards_trace import Lowered


def check(lowered: Lowered | str, without: frozenset[Part] = frozenset()) -> list[Finding]:
    """All findings of a lowered module, each pair of ops once; [] if it is clean.

    Args:
        lowered: the module as the compiler prints it before its last conversion.
        without: ids of ops that are left out, and (id, slot) of flags inside an op; for tests.

    Raises F471 for code that is not known.
    """
    if isinstance(lowered, str):
        lowered = Lowered(lowered)
    found: dict[tuple[str, int, int], Finding] = {}
    for launch in lowered.launches():
        for cores in lowered.walks(launch, without):
            ordered = order(cores)
            for finding in (*ordered.findings, *hazards(ordered)):
                key = (finding.what if finding.kind == "flag" else "hazard", id(finding.first),
                       id(finding.second) if finding.second else 0)
                found.setdefault(key, finding)
    return list(found.values())
