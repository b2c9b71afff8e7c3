"""Every composite: the numpy reference and the decomposition, interpreted, say the same.

Three sequences at three positions, in slots that are not in order; every example of every op; calls
of one token, fewer and more tokens than the window, several blocks at once; ordinary and hostile
data. Indices are compared exactly: where scores are near, they are made equal or far apart.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from firstlight.ir import dims
from firstlight.ir.array import emit, trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.decompose import decompose
from firstlight.ir.interpreter import run
from firstlight.ir.registry import TABLE
from firstlight.ir.types import StateType, TensorType, Type
from firstlight.ir.verifier import verify

CONTEXT, SLOTS = 48, 4
SLOT = np.array([2, 0, 3], np.int32)
TOLERANCE = 2e-5
COMPOSITES = sorted(name for name, info in TABLE.items() if info.composite)
CASES = [(name, i) for name in COMPOSITES for i in range(len(TABLE[name].examples))]
STATEFUL = [(name, i) for name, i in CASES
            if any(isinstance(t, StateType) for t in TABLE[name].examples[i][0])]
GROWING = [("compress", 0), ("compress", 1), ("hybrid_attention", 2)]
"""Those that own all the state they read: a call of many tokens is many calls."""
# ratio 4 and a window of 5 in the examples: starts, ends and middles of blocks, the wrapped ring
POSITIONS = [(0, 0, 0), (0, 3, 4), (1, 2, 7), (4, 5, 6), (8, 11, 12), (13, 19, 20)]
TOKENS = (1, 2, 4, 5, 9, 17)

Data = Callable[[np.random.Generator, str, np.ndarray], np.ndarray]


def ordinary(random, name, x):
    """Bell-shaped."""
    return x


def ties(random, name, x):
    """Small integers: equal scores, and sums that are exact in any order."""
    return np.round(x)


def all_negative(random, name, x):
    """Scores below zero wherever a weight or a query can make them so."""
    return -np.abs(x) if name in ("q", "a", "gate", "bias", "x", "g", "sink") else np.abs(x)


def zeros(random, name, x):
    """Rows of nothing: the norms divide by their eps only."""
    return np.zeros_like(x) if name in ("x", "q", "kv", "v", "g", "a") else x


def outliers(random, name, x):
    """A value of 1e4 in what comes from the tokens."""
    if name in ("x", "q", "kv", "v", "y"):
        x = x.copy()
        x.reshape(-1)[random.integers(0, x.size, 2)] = 1e4
    return x


def one_hot(random, name, x):
    """Gates, sinks and scores so far apart that one takes everything."""
    # routers less: where all chosen scores underflow, the weights are 0/0 (spec 4.11, D12)
    return x * {"gate": 8, "bias": 8, "g": 300, "ape": 300, "sink": 300, "base": 300}.get(name, 1)


DATA = (ordinary, ties, all_negative, zeros, outliers, one_hot)


def modules(name: str, types: tuple[Type, ...], attrs: Mapping[str, Any]) -> tuple[Module, Module]:
    """The op, and what it stands for in primitives."""
    function = trace("main", lambda *a: emit(a[0].builder, name, *a, **attrs), types,
                     Builder("main"))
    module = Module().with_function(function)
    meaning = decompose(module)
    verify(meaning)
    assert not any(TABLE[op.name].composite for f in meaning for op in f.ops)
    return module, meaning


def operand(random: np.random.Generator, name: str, type_: Type, sizes: Mapping[str, int],
            pos: np.ndarray, data: Data) -> np.ndarray:
    """An array for one operand."""
    if isinstance(type_, StateType):
        rows = dims.evaluate(type_.capacity, sizes)
        return data(random, name, random.standard_normal((SLOTS, rows, type_.width)).astype("f4"))
    shape = tuple(dims.evaluate(d, sizes) for d in type_.shape)
    match name:
        case "slot":
            return SLOT
        case "pos":
            return pos
        case "positions":
            return pos[:, None] + np.arange(shape[1], dtype=np.int32)
        case "freqs":
            return np.array([1.0, 0.01, 1e-4][: shape[0]], np.float32)
        case "tokens":
            return random.integers(0, 7, shape).astype(np.int32)
        case "table":
            return np.array([random.permutation(5)[: shape[1]] for _ in range(shape[0])], np.int32)
        case "scale" if len(shape) == 1:
            return np.array([0.5, 0.25, 0.75][: shape[0]], np.float32)
        case "index":
            return random.integers(0, 5, shape).astype(np.int32)
    return data(random, name, random.standard_normal(shape).astype(np.float32))


def arrays(name: str, types: tuple[Type, ...], tokens: int, pos: tuple[int, ...], data: Data,
           seed: int = 0) -> tuple[list[np.ndarray], dict[str, int]]:
    """All operands and the sizes."""
    random = np.random.default_rng([seed, tokens, *pos])
    sizes = {"B": 3, "S": tokens, "C": CONTEXT}
    at = np.array(pos, np.int32)
    named = dict(zip(TABLE[name].bind(len(types)), types, strict=True))
    out = {n: operand(random, n, t, sizes, at, data) for n, t in named.items()}
    if name == "hybrid_attention" and "index" in out:
        visible = (at[:, None, None] + np.arange(tokens)[:, None] + 1) // types[7].ratio
        places = np.argsort(random.random((*out["index"].shape[:2], 12)), -1)
        places = places[..., : out["index"].shape[-1]]          # different ones, some not there
        out["index"] = np.where(places < visible, places, -1).astype(np.int32)
    return list(out.values()), sizes


def assert_same(name: str, got: list, want: list, where: str) -> None:
    """Indices equal; numbers within 2e-5 of the largest magnitude."""
    for result, g, w in zip(TABLE[name].outs, got, want, strict=False):
        assert g.shape == w.shape, f"{where}: {result} is {g.shape}, reference {w.shape}"
        assert g.dtype == w.dtype, f"{where}: {result} is {g.dtype}, reference {w.dtype}"
        if g.dtype == np.int32:
            np.testing.assert_array_equal(g, w, f"{where}: {result}")
        else:
            assert np.isfinite(w).all(), f"{where}: {result} is not finite"
            gap = np.abs(g - w).max() / max(1.0, np.abs(w).max())
            assert gap <= TOLERANCE, f"{where}: {result} differs by {gap}"


def exact_scales(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Powers of two, so that scores of integers are exact and ties are ties in any order."""
    return {k: 0.5 if k in ("scale", "head_scale") else v for k, v in attrs.items()}


@pytest.mark.parametrize(("name", "number"), CASES)
def test_reference_is_the_decomposition(name, number):
    types, attrs = TABLE[name].examples[number]
    stateful = any(isinstance(t, StateType) for t in types)
    placed = stateful or "positions" in TABLE[name].ins
    whole, meaning = modules(name, types, attrs)
    exact = modules(name, types, exact_scales(attrs))
    for data, tokens in itertools.product(DATA, TOKENS if stateful else (1, 5)):
        for pos in POSITIONS if placed else POSITIONS[:1]:
            a, b = exact if data is ties else (whole, meaning)
            args, sizes = arrays(name, types, tokens, pos, data)
            want, got = run(a, "main", args, sizes), run(b, "main", args, sizes)
            assert_same(name, got, want, f"{name} {data.__name__} S={tokens} pos={pos}")


@pytest.mark.parametrize(("name", "number"), STATEFUL)
def test_sequences_do_not_see_each_other(name, number):
    """Three sequences in one call are three calls of one sequence each."""
    types, attrs = TABLE[name].examples[number]
    module, _ = modules(name, types, attrs)
    names = TABLE[name].bind(len(types))
    batched = {n for n, t in zip(names, types, strict=True)
               if isinstance(t, TensorType) and t.shape[0] == dims.B}
    for tokens, pos in itertools.product((1, 5, 9), POSITIONS):
        args, sizes = arrays(name, types, tokens, pos, ordinary)
        together = run(module, "main", args, sizes)
        for b in range(3):
            one = [x[b:b + 1] if n in batched else x for n, x in zip(names, args, strict=True)]
            alone = run(module, "main", one, sizes | {"B": 1})
            for type_, t, a in zip([v.type for v in module["main"].results], together, alone,
                                   strict=True):
                t, a = (t[SLOT[b]], a[SLOT[b]]) if isinstance(type_, StateType) else (t[b], a[0])
                np.testing.assert_allclose(a, t, rtol=1e-5, atol=1e-5)
        for result, after in zip(TABLE[name].outs, together, strict=True):
            if result in names:                             # slot 1 belongs to none of them
                np.testing.assert_array_equal(after[1], args[names.index(result)][1])


@pytest.mark.parametrize(("name", "number"), GROWING)
def test_one_call_is_many_calls(name, number):
    """S tokens at once, or in pieces with the states carried along."""
    types, attrs = TABLE[name].examples[number]
    names, tokens = TABLE[name].bind(len(types)), 17
    _, module = modules(name, types, attrs)
    per_token = {n for n, t in zip(names, types, strict=True)
                 if isinstance(t, TensorType) and t.shape[:2] == (dims.B, dims.S)}
    states = [n for n, t in zip(names, types, strict=True) if isinstance(t, StateType)]
    for pos in POSITIONS:
        args, sizes = arrays(name, types, tokens, pos, ordinary)
        whole = run(module, "main", args, sizes)
        for pieces in ((1,) * 17, (4, 4, 9), (3, 14), (16, 1)):
            known, at, outputs = dict(zip(names, args, strict=True)), 0, []
            for piece in pieces:
                part = {n: x[:, at:at + piece] if n in per_token else x for n, x in known.items()}
                part["pos"] = np.array(pos, np.int32) + np.int32(at)
                *out, = run(module, "main", list(part.values()), sizes | {"S": piece})
                known |= dict(zip(states, out[-len(states):], strict=True))
                outputs.append(out[:-len(states)])
                at += piece
            for i, state in enumerate(states):
                np.testing.assert_allclose(known[state], whole[i - len(states)], atol=1e-5)
            for i, output in enumerate(whole[:-len(states)]):
                parts = np.concatenate([o[i] for o in outputs], 1)
                np.testing.assert_allclose(parts, output, atol=1e-5)


def reference(name: str, number: int, args: list[np.ndarray], sizes: Mapping[str, int],
              **attrs: Any) -> list[np.ndarray]:
    """An example of an op on these arrays."""
    types, example = TABLE[name].examples[number]
    module, _ = modules(name, types, {**example, **attrs})
    return run(module, "main", args, sizes)


def test_index_select_by_hand():
    """Ties go to the lower place, -1 fills up, and what is not complete is not seen."""
    q, a = np.ones((1, 2, 3, 6), np.float32), np.ones((1, 2, 3), np.float32)
    keys = np.zeros((1, 12, 6), np.float32)
    keys[0, :5, 0] = [1, 3, 1, 3, 9]                        # of 4 blocks: scores 1, 3, 1, 3
    args = [q, a, keys, np.zeros(1, np.int32), np.array([[6, 15]], np.int32)]
    (index,) = reference("index_select", 0, args, {"B": 1, "S": 2, "C": CONTEXT})
    assert index.tolist() == [[[0, -1, -1, -1, -1], [1, 3, 0, 2, -1]]]
    args[1] = -a                                            # all scores negative: the same number
    (index,) = reference("index_select", 0, args, {"B": 1, "S": 2, "C": CONTEXT})
    assert index.tolist() == [[[0, -1, -1, -1, -1], [0, 2, 1, 3, -1]]]


@pytest.mark.parametrize("t", [0, 2, 3, 4, 6, 7, 8, 11])
def test_a_token_sees_the_block_it_completes(t):
    """Section 5: block w is visible from position wm + m - 1 on."""
    types, _ = TABLE["index_select"].examples[0]
    args, sizes = arrays("index_select", types, 1, (t, t, t), ordinary)
    (index,) = reference("index_select", 0, args, sizes, k=12)
    assert ((index >= 0).sum(-1) == (t + 1) // 4).all()


def test_attention_by_hand():
    """Equal keys: each has the weight 1 / (count + exp(sink)); the window has `rows` of them."""
    types, _ = TABLE["hybrid_attention"].examples[1]
    for t in (0, 3, 4, 5, 7, 8, 20):
        args, sizes = arrays("hybrid_attention", types, 1, (t, t, t), ordinary)
        names = dict(zip(TABLE["hybrid_attention"].bind(len(types)), args, strict=True))
        for name in ("q", "freqs", "sink"):
            names[name] = np.zeros_like(names[name])
        for name in ("kv", "ring", "entries"):
            names[name] = np.ones_like(names[name])
        o, _ = reference("hybrid_attention", 1, list(names.values()), sizes)
        seen = min(t + 1, 5) + (t + 1) // 4
        np.testing.assert_allclose(o, seen / (seen + 1), rtol=1e-6)


def test_empty_and_crowded_experts():
    """All tokens to one expert, the same expert twice, and experts whom nobody asks."""
    types, attrs = TABLE["expert_ffn"].examples[0]
    whole, meaning = modules("expert_ffn", types, attrs)
    args, sizes = arrays("expert_ffn", types, 5, (0, 0, 0), ordinary)
    for index in (np.zeros_like(args[1]), np.full_like(args[1], 4), args[1] * 0 + [1, 3]):
        args[1] = index.astype(np.int32)
        want, got = run(whole, "main", args, sizes), run(meaning, "main", args, sizes)
        assert_same("expert_ffn", got, want, "expert_ffn")


@pytest.mark.parametrize("position", [0, 127, 128, 65535, 1048575])
def test_rope_far_away(position):
    """Angles are float32 products up to the last position of the released models."""
    types, attrs = TABLE["rope"].examples[0]
    whole, meaning = modules("rope", types, attrs)
    args, sizes = arrays("rope", types, 1, (position,) * 3, ordinary)
    args[2] = np.array([1.0, 0.68765606], np.float32)
    want, got = run(whole, "main", args, sizes), run(meaning, "main", args, sizes)
    assert_same("rope", got, want, "rope")
    angle = np.float32(position) * args[2]
    a, b = args[0][..., -4], args[0][..., -3]
    expected = a * np.cos(np.float64(angle[0])) - b * np.sin(np.float64(angle[0]))
    np.testing.assert_allclose(got[0][..., -4], expected, atol=1e-6)
