"""Quantization policies: which codec the weights and states of each role get, in a short text.

``shipped``                                    as the checkpoint has them (the default)
``int8-g32``                                   every role of `COMMON` in one codec
``experts=int4-g32,attn=int8-g32,head=fp8``    role by role; what is not named stays as shipped
``kv=released,index-keys=released``            states in the formats the model was trained with
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firstlight.ir.codecs import GROUPED
from firstlight.ir.types import (
    BLOCK_FP8,
    GROUP_FP4,
    GROUP_INT4,
    GROUP_INT8,
    KEYS_FP4,
    kv_fp8,
)
from firstlight.passes.quantize import Quantize
from firstlight.runtime.errors import FirstlightError

SHIPPED = "shipped"
CODEC_NAMES = {
    "f32": "f32", "bf16": "bf16", "fp8": BLOCK_FP8, "mxfp4": GROUP_FP4, "int8-g32": GROUP_INT8,
    "int4-g32": GROUP_INT4,
}
ROLES = {
    "experts": "matrices of routed and shared experts",
    "attn": "projections of attention and of the indexer's queries",
    "compressor": "projections whose results are pooled into compressed entries and index keys",
    "head": "the output projection",
    "embedding": "the table of token embeddings",
    "kv": "window and compressed entries that attention reads",
    "index-keys": "compressed entries that the indexer scores",
}
STATES = ("kv", "index-keys")
"""Roles of states, float32 as shipped."""
STATE_CODECS = ("bf16", "released")
"""`released` is what specification section 7 says the model was trained with."""
COMMON = ("experts", "attn", "head", "embedding")
"""Roles that a bare name means. Compressors are a hundredth of the bytes and feed the state of
every later token, so they change only when named."""


def parse_policy(text: str) -> dict[str, str]:
    """Role -> name of a codec, without the roles that stay as shipped.

    Raises F306 for what is no policy.
    """
    text = text.strip()
    if text in (SHIPPED, *CODEC_NAMES):
        return {} if text == SHIPPED else dict.fromkeys(COMMON, text)
    policy: dict[str, str] = {}
    for part in text.split(","):
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals or role not in ROLES or role in policy:
            raise _refused(text, f"{part.strip()!r} names no role, or one twice",
                           f"the roles are {', '.join(ROLES)}")
        known = (SHIPPED, *(STATE_CODECS if role in STATES else CODEC_NAMES))
        if name not in known:
            raise _refused(text, f"{name!r} is no codec of {role}",
                           f"there are {', '.join(known)}")
        policy[role] = name
    return {role: name for role, name in policy.items() if name != SHIPPED}


def searched(text: str) -> bool:
    """Whether a policy has a codec whose scales are searched, so that columns can weigh."""
    return any(CODEC_NAMES.get(name) in GROUPED for name in parse_policy(text).values())


def quantizer(text: str, patterns: Mapping[str, Sequence[str]], tail: int = 0,
              transformed: bool = False) -> Quantize | None:
    """The pass of a policy, None where nothing changes.

    Args:
        patterns: the names of a model's weights and states by role, as shell patterns.
        tail: how many last columns of keys and values rope turns.
        transformed: whether the model itself transforms and rounds index keys (numerics
            `released`), so that their codec loses nothing and must not transform them again.
    """
    released = {"kv": kv_fp8(tail), "index-keys": GROUP_FP4 if transformed else KEYS_FP4}
    weights: list[str] = []
    states: list[str] = []
    for role, name in parse_policy(text).items():
        codec = released[role] if name == "released" else CODEC_NAMES[name]
        rules = states if role in STATES else weights
        rules += [f"{pattern}={codec}" for pattern in patterns.get(role, ())]
    return Quantize(tuple(weights), tuple(states)) if weights or states else None


def _refused(text: str, why: str, known: str) -> FirstlightError:
    return FirstlightError("F306", f"there is no quantization policy {text!r}",
                           where="--quantize", why=why,
                           try_=f"--quantize experts=int4-g32,attn=int8-g32    ({known})")
