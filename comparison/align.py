"""Which events of two sides mean the same value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from firstlight.comparison.side import RETURN, Event, Key


def common_keys(a: Sequence[Key], b: Sequence[Key]) -> set[Key]:
    """Keys that may be compared.

    The ends of functions always; the steps of a function where both sides have the same steps. An
    equal name is not enough: where passes fuse differently, the second `add` at a path may be
    another one.
    """
    one, other = _functions(a), _functions(b)
    common = set()
    for end in one.keys() & other.keys():
        if end is not None:
            common.add(end)
        if one[end] == other[end]:
            common |= set(one[end])
    return common


def pairs(a: Iterator[Event], b: Iterator[Event], common: set[Key]
          ) -> Iterator[tuple[Event, Event]]:
    """Events of equal key, in the order of `a`; both sides are run to their ends.

    In step, so that only one value of each side is kept, unless the orders differ.
    """
    waiting: dict[Key, Event] = {}
    for event in a:
        if event.key not in common:
            continue
        while event.key not in waiting:
            other = next(b)
            if other.key in common:
                waiting[other.key] = other
        yield event, waiting.pop(event.key)
    for _ in b:
        pass


def _functions(keys: Sequence[Key]) -> dict[Key | None, list[Key]]:
    """Steps by the end of the function they lead to; None for those after the last end."""
    found: dict[Key | None, list[Key]] = {}
    steps: list[Key] = []
    for key in keys:
        if key.op == RETURN:
            found[key], steps = steps, []
        else:
            steps.append(key)
    found[None] = steps
    return found
