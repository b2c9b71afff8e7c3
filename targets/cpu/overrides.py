"""Which hand-written kernel stands for an op: the op's types become the factory's parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Override
from firstlight.ir.core import Op, Value
from firstlight.ir.types import StateType, TensorType, row_codec
from firstlight.targets.cpu.kernels import (
    attention,
    compress,
    embedding,
    experts,
    hyper,
    index_select,
    linear,
    norms,
    rope,
    route,
)
from firstlight.targets.cpu.kernels.layouts import FORMS

SMALL = ("f32", "bf16", "f16")      # how small vectors (norms, biases, sinks) may be stored
Factory = Callable[[str, Op, int, int], "Kernel | None"]


def overrides(lanes: int, way: str = "") -> dict[str, Override]:
    """The table of a machine with vectors of `lanes` float32.

    way: a key of `activations.WAYS`: how products prepare their activations.
    """
    def bound(factory: Factory) -> Override:
        return lambda name, op, tokens: factory(name, op, tokens, lanes)

    factories = {**FACTORIES, **{name: partial(f, way=way) for name, f in PRODUCTS.items()}}
    return {name: bound(factory) for name, factory in factories.items()}


def _inner(value: Value) -> tuple[int, ...]:
    """Sizes after the batch and token axes."""
    assert isinstance(value.type, TensorType)
    return value.type.shape[2:]  # type: ignore[return-value]


def _shape(weight: Value) -> tuple[int, ...]:
    """All sizes of a weight."""
    assert isinstance(weight.type, TensorType)
    return weight.type.shape  # type: ignore[return-value]


def _codec(value: Value) -> str:
    assert isinstance(value.type, TensorType)
    return value.type.codec or value.type.dtype


def _state(value: Value) -> StateType:
    assert isinstance(value.type, StateType)
    return value.type


def _small(*values: Value) -> bool:
    return all(_codec(v) in SMALL for v in values)


def _heads(x: Value) -> tuple[int, int]:
    """(heads, width) of x[B, S, (H,) d]."""
    *heads, width = _inner(x)
    return (heads[0] if heads else 1), width


def _tokens(op: Op, tokens: int) -> int:
    """The most tokens of a call: 1 also where a prefill works on its last token only."""
    count = op.operands[0].type.shape[1]  # type: ignore[union-attr]
    return count if isinstance(count, int) else tokens


# -- weight streaming ------------------------------------------------------------------------------

def _linears(name: str, op: Op, tokens: int, lanes: int, way: str = "") -> Kernel | None:
    x, *ws = op.operands
    if any(_codec(w) not in FORMS for w in ws) or len(_inner(x)) != 1:
        return None
    segments = [(_shape(w)[0], _codec(w)) for w in ws]
    return linear.linears(name, segments, _inner(x)[0], _tokens(op, tokens), lanes, way)


def _group_linear(name: str, op: Op, tokens: int, lanes: int, way: str = "") -> Kernel | None:
    x, w = op.operands
    groups, k = _inner(x)
    if _codec(w) not in FORMS:
        return None
    return linear.group_linear(name, groups, _shape(w)[0] // groups, k, _codec(w),
                               _tokens(op, tokens), lanes, way)


def _embedding(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    table, _ = op.operands
    if not _small(table):
        return None
    return embedding.embedding(name, _shape(table)[1], _codec(table), _tokens(op, tokens), lanes)


def _expert_ffn(name: str, op: Op, tokens: int, lanes: int, way: str = "") -> Kernel | None:
    _, index, _, w1, *_ = op.operands
    codecs = [_codec(w) for w in op.operands[3:]]
    if any(c not in FORMS for c in codecs):
        return None
    shared = _shape(op.operands[6])[0]
    count, inner, d = _shape(w1)
    if shared != inner:
        return None
    return experts.expert_ffn(name, count, _inner(index)[0], d, inner, codecs,
                              float(op.attrs["limit"]), _tokens(op, tokens), lanes, way)


# -- vectors and state -----------------------------------------------------------------------------

def _rms_norm(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, *w = op.operands
    if not _small(*w):
        return None
    heads, width = _heads(x)
    return norms.rms_norm(name, width=width, eps=op.attrs["eps"], tokens=_tokens(op, tokens),
                          heads=heads, weight=_codec(w[0]) if w else None, lanes=lanes)


def _norm_rope(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, *w, _, freqs = op.operands
    if not _small(*w):
        return None
    heads, width = _heads(x)
    return norms.norm_rope(name, width=width, pairs=_shape(freqs)[0], eps=op.attrs["eps"],
                           tokens=_tokens(op, tokens), heads=heads,
                           weight=_codec(w[0]) if w else None, lanes=lanes)


def _rope(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, _, freqs = op.operands
    heads, width = _heads(x)
    return rope.rope(name, heads=heads, width=width, pairs=_shape(freqs)[0],
                     tokens=_tokens(op, tokens), inverse=op.attrs["inverse"], lanes=lanes)


def _compress(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    _, _, ape, norm, freqs, partial, entries, _, _ = op.operands
    if not _small(ape, norm):
        return None
    return compress.compress(
        name, ratio=_state(partial).ratio, width=_state(entries).width, pairs=_shape(freqs)[0],
        capacity=_state(entries).rows, eps=op.attrs["eps"], overlap=op.attrs["overlap"],
        tokens=_tokens(op, tokens), ape=_codec(ape), norm=_codec(norm),
        codec=_state(entries).codec, lanes=lanes)


def _attention(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    """hybrid_attention, and norm_rope_attention with a norm behind kv."""
    q, _, *rest = op.operands
    norm = rest.pop(0) if "eps" in op.attrs else None
    sink, freqs, ring, _, _, *more = rest
    if not _small(sink, *([norm] if norm else [])):
        return None
    heads, width = _inner(q)
    state = _state(more[0]) if more else None
    codecs = (_state(ring).codec, state.codec if state else "f32")
    if any(row_codec(codec).rotated for codec in codecs):     # a format of index keys
        return None
    return attention.hybrid_attention(
        name, heads=heads, width=width, window=_state(ring).rows, pairs=_shape(freqs)[0],
        scale=op.attrs["scale"], sink=_codec(sink), entries=("none", "all", "picked")[len(more)],
        ratio=state.ratio if state else 0, capacity=state.rows if state else 0,
        k=_inner(more[1])[0] if len(more) == 2 else 0, tokens=_tokens(op, tokens),
        codecs=codecs, norm=_codec(norm) if norm else "", eps=op.attrs.get("eps", 0.0),
        lanes=lanes)


def _index_select(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    q, _, keys, _, _ = op.operands
    heads, width = _inner(q)
    state = _state(keys)
    return index_select.index_select(
        name, heads=heads, width=width, ratio=state.ratio, capacity=state.rows, k=op.attrs["k"],
        scale=op.attrs["scale"], head_scale=op.attrs["head_scale"], tokens=_tokens(op, tokens),
        codec=state.codec, lanes=lanes)


def _hyper_pre(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, *weights = op.operands
    if not _small(*weights):
        return None
    streams, width = _inner(x)
    return hyper.hyper_pre(
        name, streams=streams, width=width, eps=op.attrs["eps"], hc_eps=op.attrs["hc_eps"],
        rounds=op.attrs["rounds"], codecs=tuple(map(_codec, weights)),
        decode_only=_tokens(op, tokens) == 1, lanes=lanes)


def _hyper_mix(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, *_, fn, base, scale, norm = op.operands
    if not _small(fn, base, scale, norm):
        return None
    streams, width = _inner(x)
    return hyper.hyper_mix(
        name, streams=streams, width=width, eps=op.attrs["eps"], hc_eps=op.attrs["hc_eps"],
        rounds=op.attrs["rounds"], codecs=tuple(map(_codec, (fn, base, scale, norm))),
        decode_only=_tokens(op, tokens) == 1, lanes=lanes)


def _hyper_head(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, *weights = op.operands
    if not _small(*weights):
        return None
    streams, width = _inner(x)
    return hyper.hyper_head(
        name, streams=streams, width=width, eps=op.attrs["eps"], hc_eps=op.attrs["hc_eps"],
        codecs=tuple(map(_codec, weights)), decode_only=_tokens(op, tokens) == 1, lanes=lanes)


def _hyper_post(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    streams, width = _inner(op.operands[0])
    return hyper.hyper_post(name, streams=streams, width=width, tokens=_tokens(op, tokens),
                            lanes=lanes)


def _route(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, gate, bias = op.operands
    if not _small(gate, bias):
        return None
    return route.route(
        name, experts=_shape(gate)[0], width=_inner(x)[0], k=op.attrs["k"],
        scale=op.attrs["scale"], gate=_codec(gate), bias=_codec(bias),
        decode_only=_tokens(op, tokens) == 1, lanes=lanes)


def _route_hash(name: str, op: Op, tokens: int, lanes: int) -> Kernel | None:
    x, gate, table, _ = op.operands
    if not _small(gate):
        return None
    return route.route_hash(
        name, experts=_shape(gate)[0], width=_inner(x)[0], k=_shape(table)[1],
        scale=op.attrs["scale"], tokens=_tokens(op, tokens), gate=_codec(gate), table=_codec(table),
        lanes=lanes)


FACTORIES: dict[str, Factory] = {
    "linear": _linears, "linears": _linears, "group_linear": _group_linear,
    "embedding": _embedding, "expert_ffn": _expert_ffn, "rms_norm": _rms_norm,
    "norm_rope": _norm_rope, "rope": _rope, "compress": _compress,
    "hybrid_attention": _attention, "norm_rope_attention": _attention,
    "index_select": _index_select, "route": _route, "route_hash": _route_hash,
    "hyper_pre": _hyper_pre, "hyper_head": _hyper_head, "hyper_post": _hyper_post,
    "hyper_mix": _hyper_mix,
}
PRODUCTS: dict[str, Callable[..., Kernel | None]] = {
    "expert_ffn": _expert_ffn, "group_linear": _group_linear, "linear": _linears,
    "linears": _linears,
}
