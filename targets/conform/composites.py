"""Cases of the composites: the examples of their rows, and the shapes and codecs of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from firstlight.ir import dims
from firstlight.ir.registry import TABLE
from firstlight.ir.types import (
    BLOCK_FP8,
    GROUP_FP4,
    GROUP_INT4,
    GROUP_INT8,
    KEYS_FP4,
    StateType,
    kv_fp8,
    row_codec,
)
from firstlight.targets.conform.cases import Case, f32, i32
from firstlight.targets.conform.data import (
    balanced,
    constant,
    integers,
    outliers,
    plain,
    ties,
    tiny,
    zero_rows,
)
from firstlight.targets.conform.primitives import CODECS, I32, POSITIONS

B, S = dims.B, dims.S
HOSTILE = (plain, zero_rows, outliers)


def composites() -> Iterator[Case]:
    """Every composite."""
    for family in FAMILIES.values():
        yield from family()


def _examples() -> Iterator[Case]:
    for info in TABLE.values():
        for types, attrs in info.examples if info.composite else ():
            moving = {"pos", "positions"} & set(info.ins)
            yield Case(info.name, types, attrs, HOSTILE,
                       positions=POSITIONS if moving else (0,))


def _wide() -> Iterator[Case]:
    """Widths of whole vectors, and weights in the codecs that checkpoints have."""
    x = f32(B, S, 64)
    small = (*HOSTILE, tiny)
    for codec in ("f32", "bf16", "f16"):
        yield Case("rms_norm", (f32(B, S, 3, 96), f32(96, codec=codec)), {"eps": 1e-6}, small)
        yield Case("norm_rope", (x, f32(64, codec=codec), i32(B, S), f32(16)), {"eps": 1e-6}, small,
                   positions=(0, 1000))
    yield Case("rms_norm", (x,), {"eps": 1e-6}, small, long=True)
    yield Case("rope", (f32(B, S, 64), i32(B, S), f32(16)), {"inverse": True}, positions=(0, 1000))
    yield Case("norm_rope", (f32(B, S, 3, 64), i32(B, S), f32(16)), {"eps": 1e-6},
               positions=(0, 1000))
    yield Case("linears", (x, f32(130, 64, codec=BLOCK_FP8), f32(16, 64, codec="bf16"),
                           f32(7, 64, codec=GROUP_FP4)), {}, HOSTILE, long=True)
    for codec in CODECS:
        yield Case("linears", (x, f32(35, 64, codec=codec), f32(16, 64, codec=codec)), {}, HOSTILE)
    yield Case("route", (x, f32(32, 64, codec="bf16"), f32(32)), {"k": 6, "scale": 1.5},
               (plain, ties, zero_rows))
    yield Case("route_hash", (x, f32(32, 64, codec="bf16"), i32(7, 6, codec="i64"), i32(B, S)),
               {"scale": 1.5}, values={"table": integers(0, 32), "tokens": integers(0, 7)})
    for routed, shared in ((GROUP_FP4, BLOCK_FP8), (BLOCK_FP8, "bf16"), ("f16", "f32"),
                           (GROUP_INT4, GROUP_INT8)):
        up, down = f32(5, 96, 64, codec=routed), f32(5, 64, 96, codec=routed)
        one, two = f32(96, 64, codec=shared), f32(64, 96, codec=shared)
        yield Case("expert_ffn", (x, i32(B, S, 2), f32(B, S, 2), up, up, down, one, one, two),
                   {"limit": 7.0}, HOSTILE, values={"index": integers(1, 4)}, long=True)
    for n in (2, 4):
        streams = f32(B, S, n, 32)
        yield Case("hyper_pre", (streams, f32((2 + n) * n, n * 32), f32((2 + n) * n), f32(3),
                                 f32(32)), {"eps": 1e-6, "hc_eps": 1e-6, "rounds": 19}, HOSTILE,
                   long=True)
        yield Case("hyper_post", (streams, f32(B, S, 32), f32(B, S, n), f32(B, S, n, n)), {},
                   HOSTILE)
    for n, width in ((2, 32), (4, 32), (4, 560)):   # a block of columns, and more
        yield Case("hyper_mix", (f32(B, S, n, width), f32(B, S, width), f32(B, S, n),
                                 f32(B, S, n, n), f32((2 + n) * n, n * width), f32((2 + n) * n),
                                 f32(3), f32(width)),
                   {"eps": 1e-6, "hc_eps": 1e-6, "rounds": 19}, HOSTILE, values={"fn": balanced},
                   long=True)
    for given in (streams, f32(B, 1, 4, 32)):   # of all tokens, and of a call's last only
        yield Case("hyper_head", (given, f32(4, 128), f32(4), f32(1), f32(32)),
                   {"eps": 1e-6, "hc_eps": 1e-6}, HOSTILE)
    yield Case("rms_norm", (f32(B, 1, 64),), {"eps": 1e-6}, small)
    for codec, width in (("f32", 32), ("bf16", 7), (kv_fp8(16), 80), (KEYS_FP4, 32)):
        yield from _with_states(codec, width)


def _with_states(codec: str, width: int) -> Iterator[Case]:
    """Composites that read and write states of one codec: which of them models keep in it."""
    keys = StateType("entries", width, ratio=4, codec=codec)
    if codec == KEYS_FP4 or not row_codec(codec).group:
        yield from _index_select(keys)
    if codec != KEYS_FP4:
        yield from _attention(keys)
    pairs = _pairs(width)
    for overlap in (False, True):
        w = 2 * width if overlap else width
        yield Case("compress", (f32(B, S, w), f32(B, S, w), f32(4, w, codec="bf16"),
                                f32(width, codec="bf16"), f32(pairs),
                                StateType("partial", 2 * w, 8 if overlap else 4, 4), keys, I32,
                                I32), {"eps": 1e-6, "overlap": overlap}, HOSTILE,
                   positions=POSITIONS)


def _index_select(keys: StateType) -> Iterator[Case]:
    width, codec = keys.width, keys.codec
    # turning the query instead of the keys is as good, but for what rounding makes of exact ties
    equal = () if row_codec(codec).rotated else (ties,)
    yield Case("index_select", (f32(B, S, 4, width), f32(B, S, 4), keys, I32, i32(B, S)),
               {"k": 4, "scale": 0.25, "head_scale": 0.5}, (plain, *equal, zero_rows),
               positions=POSITIONS)


def _attention(keys: StateType) -> Iterator[Case]:
    width = keys.width
    common = (f32(B, S, 2, width), f32(B, S, width), f32(2), f32(_pairs(width)),
              StateType("ring", width, 8, codec=keys.codec), I32, I32)
    for rest in ((), (keys,), (keys, i32(B, S, 3))):
        yield Case("hybrid_attention", (*common, *rest), {"scale": 0.125}, (plain, zero_rows),
                   values={"index": integers(-1, 5)}, positions=POSITIONS)
        yield Case("norm_rope_attention", (*common[:2], f32(width, codec="bf16"), *common[2:],
                                           *rest), {"eps": 1e-6, "scale": 0.125},
                   (plain, zero_rows), values={"index": integers(-1, 5)}, positions=POSITIONS)
    yield Case("hybrid_attention", common, {"scale": 0.125}, positions=(0, 9),
               values={"sink": constant(1e4)})


def _pairs(width: int) -> int:
    """Half of the columns that rope turns."""
    return 1 if width < 16 else 4


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {"examples": _examples, "wide": _wide}
"""The cases of the op table's rows, and others."""
