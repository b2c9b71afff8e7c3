"""What the weights of an artifact are stored as, and what that cost: a row for each role."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from firstlight.codegen.weights import Lost, Source, lost_by
from firstlight.ir.types import TensorType

OTHERS = "others"


def weight_report(shipped: Mapping[str, TensorType], stored: Mapping[str, TensorType],
                  sources: Mapping[str, Source], roles: Mapping[str, Sequence[str]],
                  ) -> list[dict[str, Any]]:
    """Rows with the role, the codecs of the checkpoint and of the artifact, how many weights there
    are, their bytes without padding, and the root mean square of the rounding error as a part of
    the weights (0 where no bit changed, None where weights are no numbers).

    Args:
        shipped, stored: types of every weight, in the checkpoint and in the artifact.
        sources: by name, after they were written.
        roles: patterns of names; the first that fits decides.
    """
    names = defaultdict(list)
    for name in stored:
        names[_role(name, roles)].append(name)
    rows = []
    for role in sorted(names, key=[*roles, OTHERS].index):
        lost = Lost()
        for name in names[role]:
            lost.add(lost_by(sources.get(name)) or Lost())
        rows.append({
            "role": role,
            "shipped": _codecs(shipped, names[role]), "stored": _codecs(stored, names[role]),
            "weights": len(names[role]), "bytes": sum(stored[n].nbytes() for n in names[role]),
            # six digits: sums differ in their last bits between machines, artifacts shall not
            "rms_error": float(f"{lost.rms:.6g}") if math.isfinite(lost.rms) else None,
        })
    return rows


def _role(name: str, roles: Mapping[str, Sequence[str]]) -> str:
    return next((role for role, patterns in roles.items()
                 if any(fnmatchcase(name, pattern) for pattern in patterns)), OTHERS)


def _codecs(types: Mapping[str, TensorType], names: Sequence[str]) -> str:
    return ", ".join(sorted({types[name].codec for name in names}))
