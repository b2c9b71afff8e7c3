"""Quantizing weights well: by the scales with the least error, not those that clip nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir.codecs import F32, FP4_GROUP, GROUPED, decode_weight, encode_weight
from firstlight.ir.types import GROUP_FP4, GROUP_INT8

SHRINK = tuple(1 - i / 48 for i in range(13))
"""Fractions of the scale that clips nothing. Four-bit groups of 32 rarely gain below three
quarters: what is clipped then costs more than the finer steps save."""
LEAST = np.float32(1e-30)
CACHED = 1 << 17
"""Values that are searched together: they and what is computed of them stay in the caches."""


def quantize(w: F32, codec: str, importance: F32 | None = None,
             ) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Codes and scales of a float32 matrix [N, K], as `codecs.decode_weight` takes them.

    Args:
        importance: [K], how much a column's error counts: the mean square of the activation that
            it is multiplied with. None counts all alike.
    """
    if codec not in GROUPED:
        return encode_weight(w, codec)
    weight = None if importance is None else importance.astype(np.float32).reshape(-1, FP4_GROUP)
    rows = max(1, CACHED // w.shape[1])
    groups = w.reshape(w.shape[0], -1, FP4_GROUP)
    parts = [_searched(groups[i: i + rows], codec, weight) for i in range(0, w.shape[0], rows)]
    codes, scales = (np.concatenate(some) for some in zip(*parts, strict=True))
    return codes, scales


def _searched(groups: F32, codec: str, weight: F32 | None,
              ) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes [N, ...] and scales [N, G] of rows [N, G, 32]."""
    form = GROUPED[codec]
    candidates = _candidates(groups, codec)
    best = form.encode_scale(candidates[0])
    if len(candidates) > 1:
        # a group is a column: numpy is fast where what belongs to neighbours lies side by side
        columns = np.ascontiguousarray(groups.reshape(-1, FP4_GROUP).T)
        counts = None if weight is None else np.tile(weight.T, len(groups))
        steps, error = np.empty_like(columns), np.empty_like(columns)
        least = np.full(best.shape, np.inf, np.float32)
        for candidate in candidates:
            scales = form.encode_scale(candidate)
            unit = form.decode_scale(scales)
            np.divide(columns, unit.reshape(-1), out=steps)
            np.copyto(error, steps)
            error = form.nearest(error)
            error -= steps
            error *= error
            if counts is not None:
                error *= counts
            total = error.sum(0).reshape(unit.shape) * np.square(unit)
            better = total < least
            np.copyto(best, scales, where=better)
            np.copyto(least, total, where=better)
    steps = groups / form.decode_scale(best)[..., None]
    return form.encode(steps.reshape(len(steps), -1)), best


def _candidates(groups: F32, codec: str) -> list[F32]:
    """Scales to try, the one that clips nothing first: [N, K/32] each."""
    size = np.maximum(np.abs(groups).max(-1), LEAST)
    whole = size / np.float32(GROUPED[codec].top)
    if codec == GROUP_FP4:       # powers of two
        return [whole, whole / 2]
    if codec == GROUP_INT8:
        # Of 255 steps, clipping never saves enough. But what was in four bits, or is alike in
        # another way, has a power of two as its step, and then nothing is lost.
        return [whole, np.exp2(np.ceil(np.log2(whole)))]
    # The other way round, the largest value is the code -8.
    at = np.abs(groups).argmax(-1, keepdims=True)
    largest = np.take_along_axis(groups, at, -1)[..., 0]
    other = np.where(largest > 0, -size, size) / np.float32(8)
    return [scale * np.float32(f) for f in SHRINK for scale in (whole, other)]


def requantized(w: F32, codec: str) -> F32:
    """What `quantize` leaves of a weight [..., N, K], one matrix at a time."""
    matrices = w.reshape(-1, *w.shape[-2:])
    return np.stack([decode_weight(*quantize(m, codec), codec) for m in matrices]).reshape(w.shape)
