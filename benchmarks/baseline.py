"""The regression gate: how near to its bound each test came, against what is committed.

Ratios are kept, not times, and by kind of processor: how much of a bound can be had depends on its
vector units, how fast it is today does not matter. It depends on the operations that the machine
has for a byte, too: the cores of a virtual machine read twice as much where the host lets them.
Decode has a share for each such balance; one that is not there is held against the nearest.
`bench.py --gate` fails on a loss of 15 %; `--write-baseline` records this machine in baseline.json,
for a commit; repeat it in another hour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

FILE = Path(__file__).parent / "baseline.json"
LOSS = 0.15
"""Largest loss that passes; repetitions on a quiet machine differ by a few per cent."""
Shares = Mapping[str, Mapping[str, float]]
"""Test -> balance -> share of the bound."""


def processor(cpuinfo: str) -> str:
    """Vendor, family and model: names such as "AMD EPYC" stand for several kinds."""
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    return " ".join(found.get(key, "?") for key in ("vendor_id", "cpu family", "model"))


def key(artifact: Mapping[str, Any], threads: int, cpuinfo: str) -> str:
    """What has a row of its own; `artifact` is a manifest."""
    return ", ".join([processor(cpuinfo), f"{threads} threads", artifact["target"]["name"],
                      artifact["numerics"], artifact.get("quantize", "shipped")])


def ratios(records: Sequence[Mapping[str, Any]]) -> Shares:
    """Median share of the bound, by test and balance."""
    return {f"{r['test']} {r['n']}": {_balance(r): round(median(r["of_bound"]), 3)}
            for r in records if r.get("of_bound")}


def _balance(record: Mapping[str, Any]) -> str:
    """Operations for a byte read, to the next power of two; a prompt hardly depends on them."""
    if record["test"] != "decode":
        return "any"
    flops, read = (median(record[stick]) for stick in ("flops", "bandwidth"))
    return f"{2 ** round(math.log2(flops / read))} FLOP/B"


def _apart(one: str, other: str) -> float:
    """How far two balances are apart, in powers of two."""
    if one == other:
        return 0.0
    if not (one[0].isdigit() and other[0].isdigit()):
        return math.inf     # recorded before there were balances
    a, b = (math.log2(float(balance.split()[0])) for balance in (one, other))
    return abs(a - b)


def losses(now: Shares, then: Shares) -> list[str]:
    """Tests that lost more than `LOSS`, and tests that are in one only."""
    lines = [f"{test} is in the baseline and was not measured" for test in then if test not in now]
    for test, shares in now.items():
        for balance, share in shares.items():
            before = then.get(test, {})
            kept = before[min(before, key=partial(_apart, balance))] if before else math.inf
            if not before:
                lines.append(f"{test} is not in the baseline: --write-baseline")
            elif share < (1 - LOSS) * kept:
                lines.append(f"{test} reached {share:.0%} of its bound, {kept:.0%} before")
    return lines


def judge(where: str, records: Sequence[Mapping[str, Any]], file: Path = FILE) -> list[str]:
    """`losses` against the row of this machine; a machine without one cannot be judged."""
    known = json.loads(file.read_text())
    if where not in known:
        return [f"there is no baseline for {where}: --write-baseline"]
    return losses(ratios(records), known[where])


def record(where: str, records: Sequence[Mapping[str, Any]], file: Path = FILE) -> None:
    """Write the row of this machine; what is recorded again counts as much as what was there.

    To begin anew, delete the row.
    """
    known = json.loads(file.read_text()) if file.is_file() else {}
    row = known.setdefault(where, {})
    for test, shares in ratios(records).items():
        kept = row.setdefault(test, {})
        kept |= {balance: round((share + kept.get(balance, share)) / 2, 3)
                 for balance, share in shares.items()}
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
