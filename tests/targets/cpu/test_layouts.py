"""Packing of weight tiles: round trips, pieces, shapes known without data."""

import numpy as np
import pytest

from firstlight.targets.cpu.kernels.layouts import (
    FORMS,
    PLAIN,
    QUADS,
    grouped,
    pack,
    packed_shapes,
    unpack,
)
from support.packed import CODECS, FP4, FP8, INT4, INT8, random_weight


def plain_codes(codes: np.ndarray, codec: str) -> np.ndarray:
    if codec not in (FP4, INT4):
        return codes
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(1, 8), (24, 40), (129, 320), (3, 100, 130), (2, 2, 17, 34)])
def test_round_trip_and_shapes(codec, shape):
    weight = random_weight(np.random.default_rng(1), codec, shape)
    packed = pack(PLAIN, weight.codes, weight.scales, codec, shape)
    for array, known in zip(packed, packed_shapes(PLAIN, codec, shape), strict=True):
        assert known == (None if array is None else (array.shape, str(array.dtype)))
    codes, scales = unpack(PLAIN, *packed, codec, shape)
    assert np.array_equal(codes, plain_codes(weight.codes, codec))
    if codec in (FP4, INT4, INT8):
        assert np.array_equal(scales, weight.scales)
    if codec == FP8:
        assert np.array_equal(scales, weight.scales.repeat(128, -2)[..., : shape[-2], :])


@pytest.mark.parametrize("codec", CODECS)
def test_pieces_follow_each_other(codec):
    shape = (300, 130)
    weight = random_weight(np.random.default_rng(2), codec, shape)
    whole = pack(PLAIN, weight.codes, weight.scales, codec, shape)
    pieces = []
    for first in range(0, 300, 128):
        codes = weight.codes[first : first + 128]
        own = codec in (FP4, INT4, INT8)
        scales = weight.scales[first : first + 128] if own else weight.scales
        pieces.append(pack(PLAIN, codes, scales, codec, (len(codes), 130), first))
    for all_at_once, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        if all_at_once is not None:
            assert np.array_equal(all_at_once, np.concatenate(parts))


def test_a_group_keeps_the_scales_of_its_rows_in_the_whole_matrix():
    groups, n, k = 6, 24, 260  # rows 120 to 143 are one group and lie in two scale blocks
    weight = random_weight(np.random.default_rng(3), FP8, (groups * n, k))
    packed = pack(grouped(groups), weight.codes, weight.scales, FP8, (groups * n, k))
    codes, scales = unpack(grouped(groups), *packed, FP8, (groups * n, k))
    assert np.array_equal(codes.reshape(groups * n, k), weight.codes)
    rows = np.arange(groups * n) // 128
    assert np.array_equal(scales.reshape(groups * n, 3), weight.scales[rows])


@pytest.mark.parametrize("layout", [PLAIN, grouped(2)])
def test_quads_are_another_order_of_the_same_blocks(layout):
    weight = random_weight(np.random.default_rng(4), FP8, (80, 260))
    args = weight.codes, weight.scales, FP8, (80, 260)
    (codes, scales), (other, others) = pack(layout, *args), pack(layout + QUADS, *args)
    assert np.array_equal(scales, others)
    assert not np.array_equal(codes, other)
    assert np.array_equal(np.sort(codes, -1), np.sort(other, -1))
    assert np.array_equal(unpack(layout, codes, scales, FP8, (80, 260))[0],
                          unpack(layout + QUADS, other, others, FP8, (80, 260))[0])
    lane = other.reshape(*other.shape[:-1], 16, 4)          # [.., tile, block, row, k]
    assert np.array_equal(lane[..., 0, 0, 3, :].ravel()[:4], weight.codes[3, :4])


def test_wrong_arguments():
    codes = np.zeros((32, 8), np.float32)
    with pytest.raises(ValueError, match="unknown layout"):
        pack("tile8", codes, None, "f32", (32, 8))
    with pytest.raises(ValueError, match="unknown layout"):
        pack("tile8.quads", codes, None, "f32", (32, 8))
    with pytest.raises(ValueError, match="do not have the shape"):
        pack(PLAIN, codes, None, "f32", (32, 9))
    with pytest.raises(ValueError, match="does not fit"):
        pack(grouped(5), codes, None, "f32", (32, 8))


def test_every_block_is_whole_cache_lines_or_half_of_one():
    assert all(form.block_bytes % 32 == 0 for form in FORMS.values())
