"""What a version must reach with the bench model on two cores: `bench.py --check` holds it to that.

Speeds are judged by the median of their samples. Fractions of the machine's own limit and ratios of
one run carry over to other machines; the seconds of a compile do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

DECODE_OF_BANDWIDTH = 0.50
PREFILL = 512                # tokens of the prompt that is judged
PREFILL_OVER_DECODE = 2.0    # tokens/s of that prompt over tokens/s of any decode
COMPILE_SECONDS = 45.0
COMPILE_BYTES = 1.5 * 2**30  # resident


def shortfalls(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the records of `bench.py` miss of the limits; what was not measured is missed, too."""
    return [*_compile(_of(records, "compile")),
            *_speeds(_of(records, "prefill"), _of(records, "decode"))]


def _of(records: Sequence[Mapping[str, Any]], test: str) -> list[Mapping[str, Any]]:
    return [r for r in records if r["test"] == test]


def _compile(compiles: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not compiles:
        yield "compile was not measured: add --compile"
    for r in compiles:
        if r["seconds"] > COMPILE_SECONDS:
            yield f"compile took {r['seconds']:.0f} s, more than {COMPILE_SECONDS:.0f}"
        if r["rss"] > COMPILE_BYTES:
            yield (f"compile held {r['rss'] / 2**30:.2f} GiB, "
                   f"more than {COMPILE_BYTES / 2**30:.2f}")


def _speeds(prefills: Sequence[Mapping[str, Any]],
            decodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not decodes:
        yield "decode was not measured: add --decode 128"
    for r in decodes:
        share = median(r["of_limit"])
        if share < DECODE_OF_BANDWIDTH:
            yield (f"decode at {r['n']} reached {share:.0%} of the read bandwidth, "
                   f"less than {DECODE_OF_BANDWIDTH:.0%}")
    judged = [median(r["samples"]) for r in prefills if r["n"] == PREFILL]
    if not judged:
        yield f"prefill {PREFILL} was not measured: add --prefill {PREFILL}"
    for rate in judged:
        for r in decodes:
            ratio = rate / median(r["samples"])
            if ratio < PREFILL_OVER_DECODE:
                yield (f"prefill {PREFILL} is {ratio:.2f} times as fast as decode at {r['n']}, "
                       f"less than {PREFILL_OVER_DECODE:g}")
