"""The difference of two arrays, and whether it is beyond a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.comparison.side import Array


@dataclass(frozen=True)
class Gap:
    """How far two arrays are apart.

    `largest` absolute difference, and as a part of the largest finite magnitude in either array
    (`relative`); `count` elements beyond the tolerance, of which `index` is the first.
    """

    largest: float
    relative: float
    count: int
    index: tuple[int, ...]


def gap(a: Array, b: Array, tolerance: float) -> Gap:
    """Measure `b` against `a`.

    An element is beyond the tolerance if |a - b| > tolerance * the largest magnitude in the arrays;
    of integers and truth values if it differs at all. Equal infinities and two NaN do not differ.
    Arrays of different sizes differ infinitely.
    """
    if a.size != b.size:
        return Gap(np.inf, np.inf, max(a.size, b.size), ())
    if not a.size:
        return Gap(0.0, 0.0, 0, ())
    exact = a.dtype.kind != "f"
    x, y = a.astype(np.float64), b.reshape(a.shape).astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    apart[np.isnan(apart)] = np.inf
    sizes = np.abs(np.concatenate((x.ravel(), y.ravel())))
    scale = float(sizes.max(where=np.isfinite(sizes), initial=0.0))
    beyond = np.flatnonzero(apart > (0.0 if exact else tolerance * scale))
    index = np.unravel_index(int(beyond[0]), a.shape) if beyond.size else ()
    largest = float(apart.max())
    return Gap(largest, largest / scale if scale else largest, int(beyond.size),
               tuple(int(i) for i in index))


def summary(a: Array) -> dict[str, Any]:
    """An array in a few numbers: shape, range, root mean square, values that are not finite."""
    finite = a[np.isfinite(a)].astype(np.float64)
    least, most = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    rms = np.sqrt((finite**2).mean()) if finite.size else 0.0
    return {"shape": "x".join(map(str, a.shape)), "min": float(least), "max": float(most),
            "rms": float(rms), "not_finite": a.size - finite.size}
