"""Generic kernels against the numpy references and against their decompositions, interpreted."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.ir import codecs, dims
from firstlight.ir.core import Module, Op
from firstlight.ir.decompose import decompose
from firstlight.ir.interpreter import run
from firstlight.ir.registry import TABLE
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, StateType, TensorType
from firstlight.runtime.errors import FirstlightError
from support.linked import Linked, aligned
from support.op_cases import (
    CONTEXT,
    Case,
    error,
    from_codes,
    outliers,
    plain,
    ties,
    zero_rows,
)

B, S = dims.B, dims.S
I32 = TensorType((B,), "i32")
TOLERANCE = 2e-6
FIXED = {"B": 1, "C": CONTEXT}
KINDS = {"prefill": FIXED, "decode": FIXED | {"S": 1}}


def f32(*shape: dims.Size, codec: str = "") -> TensorType:
    return TensorType(shape, "f32", codec)


def i32(*shape: dims.Size, codec: str = "") -> TensorType:
    return TensorType(shape, "i32", codec)


def boolean(*shape: dims.Size) -> TensorType:
    return TensorType(shape, "bool")


def positive(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.exp(random.normal(0, 3, shape)).astype(np.float32)


def extreme(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Infinities, large and tiny numbers among ordinary ones."""
    x = random.standard_normal(shape).astype(np.float32).reshape(-1)
    special = (-np.inf, 1e4, -1e4, 0, -0.0, 88, -104, 1e-30)
    x[: len(special)] = special[: x.size]
    return x.reshape(shape)


def integers(low: int, high: int):
    return lambda random, shape: random.integers(low, high, shape).astype(np.int32)


def some_rows_all_minus_infinity(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = np.round(random.standard_normal(shape).astype(np.float32) * 2)
    x[random.random(shape) < 0.3] = -np.inf
    x.reshape(-1, shape[-1])[0] = -np.inf
    return x


SHAPES = ((B, S, 6), (B, S, 3, 32), (B, S, 48))
OTHERS = ((B, S, 1), (32,), (B, S, 48))
UNARY = ("neg", "exp", "log", "sqrt", "abs", "rsqrt", "sigmoid", "tanh", "softplus", "relu", "cos",
         "sin")


def elementwise() -> Iterator[Case]:
    for name, shape in itertools.product(UNARY, SHAPES[:2]):
        data = positive if name in ("log", "sqrt", "rsqrt") else extreme
        if name in ("cos", "sin"):
            data = lambda random, s: (random.standard_normal(s) * 3e3).astype(np.float32)  # noqa: E731
        yield Case(name, (f32(*shape),), values={"x": data})
    for name in ("add", "sub", "mul", "div", "maximum", "minimum", "lt", "le", "eq"):
        for shape, other in zip(SHAPES, OTHERS, strict=True):
            yield Case(name, (f32(*shape), f32(*other)), changes=(plain, ties, outliers))
    for name in ("add", "sub", "mul", "maximum", "minimum", "floordiv", "mod", "lt", "le", "eq"):
        yield Case(name, (i32(B, S, 16), i32()), values={"a": integers(-99, 99),
                                                        "b": integers(7, 8)})
    for name in ("logical_and", "logical_or"):
        yield Case(name, (boolean(B, S, 16), boolean(B, 1, 16)))
    yield Case("select", (boolean(B, S, 1), f32(B, S, 32), f32()), values={"a": extreme})
    yield Case("select", (boolean(B, S, 5), i32(B, S, 5), i32(5)))
    for dtype in ("f32", "i32", "bool"):
        yield Case("cast", (i32(B, S, 16),), {"dtype": dtype}, values={"x": integers(-3, 3)})
        yield Case("cast", (f32(B, S, 16),), {"dtype": dtype})
        yield Case("cast", (boolean(B, S, 16),), {"dtype": dtype})
    for codec in ("bf16", "f16"):
        yield Case("mul", (f32(B, S, 48), f32(48, codec=codec)))


def movement() -> Iterator[Case]:
    yield Case("constant", (), {"value": 1.5, "shape": (2, 16), "dtype": "f32"})
    yield Case("constant", (), {"value": -float("inf"), "shape": (), "dtype": "f32"})
    yield Case("constant", (), {"value": (1.0, 2.5, -3.0, 4.0, 5.0, 1e-9), "shape": (2, 3),
                                "dtype": "f32"})
    yield Case("constant", (), {"value": (True, False), "shape": (2,), "dtype": "bool"})
    yield Case("iota", (), {"shape": (1, S, 5), "axis": 1})
    yield Case("iota", (), {"shape": (1, 1, dims.add(S, 32)), "axis": 2})
    yield Case("size", (), {"dim": dims.ceildiv(dims.add(S, 3), 4)})
    yield Case("broadcast", (f32(B, 1, 16),), {"shape": (B, S, 16)})
    yield Case("broadcast", (f32(),), {"shape": (B, S, 3)})
    for before, after in (
        ((B, S, 24), (B, S, 2, 3, 4)), ((B, S, 2, 3, 4), (B, S, 6, 4)), ((S, 6), (B, S, 6)),
        ((B, S), (S,)), ((2, S, 6), (4, S, 3)), ((6, 4), (8, 3)), ((B,), ()),
        ((B, dims.add(S, 8), 32), (B, 1, dims.add(S, 8), 2, 16)),
    ):
        yield Case("reshape", (f32(*before),), {"shape": after})
    yield Case("transpose", (f32(B, S, 3, 16),), {"perm": (0, 1, 3, 2)})
    yield Case("transpose", (f32(B, S, 3, 16),), {"perm": (2, 0, 3, 1)})
    for axis, start, stop in ((2, 1, 3), (3, 16, 48), (3, 5, 6)):
        yield Case("slice", (f32(B, S, 4, 64),), {"axis": axis, "start": start, "stop": stop})
    yield Case("slice", (f32(7, 64, codec="bf16"),), {"axis": 0, "start": 2, "stop": 5})
    yield Case("concat", (f32(B, 5, 16), f32(B, S, 16)), {"axis": 1})
    yield Case("concat", (f32(B, S, 3, 1), f32(B, S, 3, 1)), {"axis": 3})
    yield Case("concat", (i32(B, S, 16), i32(B, S, 2), i32(B, S, 32)), {"axis": 2})
    yield Case("gather_rows", (f32(B, 9, 32), i32(B, S, 4)), values={"index": integers(-5, 15)})
    yield Case("gather_rows", (f32(B, dims.add(S, 2), 6), i32(B, S)),
               values={"index": integers(-5, 15)})
    yield Case("take_along", (f32(B, S, 9), i32(B, S, 4)), values={"index": integers(-9, 9)})
    for codec in ("", "bf16", "f16"):
        yield Case("embedding", (f32(11, 32, codec=codec), i32(B, S)),
                   values={"ids": integers(0, 11)})
    yield Case("embedding", (i32(11, 6, codec="i64"), i32(B, S)), values={"ids": integers(0, 11)})


CODECS = ("", "f32", "bf16", "f16", BLOCK_FP8, GROUP_FP4)


def products() -> Iterator[Case]:
    yield Case("matmul", (f32(B, S, 3, 48), f32(B, 1, 9, 48)), {"transpose_b": True})
    yield Case("matmul", (f32(B, S, 3, 7), f32(B, 1, 5, 7)), {"transpose_b": True})
    yield Case("matmul", (f32(B, S, 3, 9), f32(B, 1, 9, 32)), {"transpose_b": False})
    yield Case("matmul", (f32(B, S, 3, dims.add(S, 4)), f32(B, 1, dims.add(S, 4), 16)),
               {"transpose_b": False}, (plain, zero_rows, outliers))
    yield Case("matmul", (f32(B, S, 3, 9), f32(9, 5)), {"transpose_b": False})
    yield Case("matmul", (f32(130, 40), f32(33, 40)), {"transpose_b": True})
    for codec in CODECS:
        yield Case("linear", (f32(B, S, 288), f32(140, 288, codec=codec)),
                   changes=(plain, zero_rows, outliers))
        yield Case("linear", (f32(B, S, 32), f32(5, 32, codec=codec)))
        yield Case("group_linear", (f32(B, S, 2, 64), f32(150, 64, codec=codec)))
        for shape in ((B, S, 64), (B, S, 3, 64)):
            yield Case("expert_linear", (f32(*shape), f32(5, 144, 64, codec=codec), i32(B, S, 3)),
                       values={"index": integers(1, 4)})  # experts 0 and 4 have no tokens
    yield Case("linear", (f32(B, S, 130), f32(257, 130, codec=BLOCK_FP8)))
    yield Case("linear", (f32(B, S, 7), f32(5, 7)))


def reductions() -> Iterator[Case]:
    for name, keepdims in itertools.product(("reduce_sum", "reduce_max", "reduce_mean"),
                                            (False, True)):
        for axis in (2, 3):
            yield Case(name, (f32(B, S, 5, 64),), {"axis": axis, "keepdims": keepdims},
                       (plain, outliers))
        yield Case(name, (f32(B, S, dims.add(S, 3)),), {"axis": 2, "keepdims": keepdims})
        yield Case(name, (f32(B, S, 7),), {"axis": 2, "keepdims": keepdims})
    for shape in ((B, S, 16411), (B, S, 16411, 2)):  # long enough for a parallel loop, and must not
        yield Case("reduce_sum", (f32(*shape),), {"axis": 2, "keepdims": False}, (ties,))
    for axis, shape in ((2, (B, S, 8, 6)), (3, (B, S, 3, 64)), (2, (B, S, 9))):
        yield Case("softmax", (f32(*shape),), {"axis": axis}, (plain, zero_rows, outliers, ties))
    yield Case("softmax", (f32(B, S, 64),), {"axis": 2}, values={"x": extreme})
    for k, n in ((1, 7), (4, 7), (9, 7), (16, 300)):
        yield Case("top_k", (f32(B, S, n),), {"k": k}, (plain, ties, zero_rows))
        yield Case("top_k", (f32(B, S, n),), {"k": k}, values={"x": some_rows_all_minus_infinity})
    yield Case("top_k", (f32(B, S, dims.floordiv(dims.add(S, 9), 2)),), {"k": 3}, (ties,))


def roundings() -> Iterator[Case]:
    wide = lambda random, s: (random.standard_normal(s)  # noqa: E731
                              * np.exp2(random.integers(-140, 40, s))).astype(np.float32)
    for name, block in (("round_e4m3", 16), ("round_e4m3", 64), ("round_e2m1", 32)):
        yield Case(name, (f32(B, S, 128),), {"block": block}, (plain, zero_rows, outliers, ties))
        yield Case(name, (f32(B, S, 50),), {"block": block}, values={"x": wide})
    yield Case("round_bf16", (f32(B, S, 32),), values={"x": wide})
    yield Case("round_bf16", (f32(B, S, 7),), changes=(plain, outliers))
    for n in (1, 8, 64):
        yield Case("hadamard", (f32(B, S, n),), changes=(plain, zero_rows, outliers))


RING, PARTIAL, ENTRIES = StateType("ring", 16, 5), StateType("partial", 6, 4, 4), StateType(
    "entries", 16, ratio=4)
POSITIONS = (0, 1, 3, 4, 5, 8, 33)


def states() -> Iterator[Case]:
    for state in (RING, PARTIAL, StateType("ring", 3, 1)):
        yield Case("ring_read", (state, I32, I32), positions=POSITIONS)
        yield Case("ring_write", (state, f32(B, S, state.width), I32, I32), positions=POSITIONS)
    yield Case("entries_read", (ENTRIES, I32))
    yield Case("entries_append", (ENTRIES, f32(B, S, 16), I32, I32, I32),
               values={"first": integers(0, 4), "count": lambda r, s: np.zeros(s, np.int32)})
    yield Case("entries_append", (ENTRIES, f32(B, S, 16), I32, I32, I32),
               values={"first": integers(0, 4), "count": lambda r, s: np.ones(s, np.int32)})


def halve_and_mix(x):
    return (x * 0.5 + x.softmax(3)).transpose(0, 1, 3, 2)


def control() -> Iterator[Case]:
    for n, count in ((4, 3), (16, 2), (3, 0)):
        yield Case("repeat", (f32(B, S, n, n),), {"count": count}, callee=halve_and_mix)


def composites() -> Iterator[Case]:
    for info in TABLE.values():
        for types, attrs in info.examples if info.composite else ():
            moving = {"pos", "positions"} & set(info.ins)
            yield Case(info.name, types, attrs, (plain, zero_rows, outliers),
                       positions=POSITIONS if moving else (0,))


def wide_composites() -> Iterator[Case]:
    """Widths of whole vectors, and weights in the codecs that checkpoints have."""
    hostile = (plain, zero_rows, outliers)
    x = f32(B, S, 64)
    yield Case("rms_norm", (f32(B, S, 3, 96), f32(96, codec="bf16")), {"eps": 1e-6}, hostile)
    yield Case("rms_norm", (x,), {"eps": 1e-6}, hostile)
    yield Case("rope", (f32(B, S, 64), i32(B, S), f32(16)), {"inverse": True}, positions=(0, 1000))
    yield Case("norm_rope", (f32(B, S, 3, 64), i32(B, S), f32(16)), {"eps": 1e-6},
               positions=(0, 1000))
    yield Case("linears", (x, f32(130, 64, codec=BLOCK_FP8), f32(16, 64, codec="bf16"),
                           f32(7, 64, codec=GROUP_FP4)), {}, hostile)
    yield Case("route", (x, f32(32, 64, codec="bf16"), f32(32)), {"k": 6, "scale": 1.5},
               (plain, ties, zero_rows))
    yield Case("route_hash", (x, f32(32, 64, codec="bf16"), i32(7, 6, codec="i64"), i32(B, S)),
               {"scale": 1.5}, values={"table": integers(0, 32), "tokens": integers(0, 7)})
    for routed, shared in ((GROUP_FP4, BLOCK_FP8), (BLOCK_FP8, "bf16")):
        up, down = f32(5, 96, 64, codec=routed), f32(5, 64, 96, codec=routed)
        one, two = f32(96, 64, codec=shared), f32(64, 96, codec=shared)
        yield Case("expert_ffn", (x, i32(B, S, 2), f32(B, S, 2), up, up, down, one, one, two),
                   {"limit": 7.0}, hostile, values={"index": integers(1, 4)})
    for n in (2, 4):
        streams = f32(B, S, n, 32)
        yield Case("hyper_pre", (streams, f32((2 + n) * n, n * 32), f32((2 + n) * n), f32(3),
                                 f32(32)), {"eps": 1e-6, "hc_eps": 1e-6, "rounds": 19}, hostile)
        yield Case("hyper_post", (streams, f32(B, S, 32), f32(B, S, n), f32(B, S, n, n)), {},
                   hostile)
    yield Case("hyper_head", (streams, f32(4, 128), f32(4), f32(1), f32(32)),
               {"eps": 1e-6, "hc_eps": 1e-6}, hostile)
    keys = StateType("entries", 32, ratio=4)
    yield Case("index_select", (f32(B, S, 4, 32), f32(B, S, 4), keys, I32, i32(B, S)),
               {"k": 4, "scale": 0.25, "head_scale": 0.5}, (plain, ties, zero_rows),
               positions=POSITIONS)
    common = (f32(B, S, 2, 32), f32(B, S, 32), f32(2), f32(4), StateType("ring", 32, 8), I32, I32)
    for rest in ((), (keys,), (keys, i32(B, S, 3))):
        yield Case("hybrid_attention", (*common, *rest), {"scale": 0.125}, (plain, zero_rows),
                   values={"index": integers(-1, 5)}, positions=POSITIONS)
    yield Case("hybrid_attention", common, {"scale": 0.125}, positions=(0, 9),
               values={"sink": lambda r, s: np.full(s, 1e4, np.float32)})
    for overlap in (False, True):
        w = 64 if overlap else 32
        yield Case("compress", (f32(B, S, w), f32(B, S, w), f32(4, w, codec="bf16"),
                                f32(32, codec="bf16"), f32(4),
                                StateType("partial", 2 * w, 8 if overlap else 4, 4), keys, I32,
                                I32), {"eps": 1e-6, "overlap": overlap}, hostile,
                   positions=POSITIONS)


FAMILIES = {f.__name__: f for f in (elementwise, movement, products, reductions, roundings, states,
                                    control, composites, wide_composites)}


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_compute_what_the_references_say(family: str, tmp_path: Path) -> None:
    cases = list(FAMILIES[family]())
    kernels = {}
    for (i, case), (kind, fixed) in itertools.product(enumerate(cases), KINDS.items()):
        if kind == "decode" and family == "composites":
            continue  # compiling takes long; the wide composites have both kinds
        module = case.module(fixed)
        name = f"{case.op}_{i}_{kind}"
        kernels[name] = generic_kernel(name, module["main"].ops[-1], module)
    linked = Linked(kernels.values(), tmp_path)
    for i, case in enumerate(cases):
        module = case.module(FIXED)
        decomposed = decompose(module)
        for tokens in (1, 2, 7):
            check(linked, f"{case.op}_{i}", case, module, decomposed, tokens)
    linked.close()


def check(linked: Linked, name: str, case: Case, module: Module, decomposed: Module,
          tokens: int) -> None:
    """Run a case's kernels on all its data."""
    sizes = {"B": 1, "S": tokens, "C": CONTEXT}
    random = np.random.default_rng(tokens)
    for pos, change in itertools.product(case.positions, case.changes):
        operands = list(case.arrays(random, sizes, pos, change))
        values = [o.value for o in operands]
        want = run(module, "main", values, sizes)
        meant = run(decomposed, "main", values, sizes)
        for kind in KINDS if tokens == 1 else ("prefill",):
            if f"{name}_{kind}" not in linked.names:
                continue
            got = call(linked, f"{name}_{kind}", case, operands, module, want, tokens)
            where = f"{name}_{kind} S={tokens} pos={pos} {change.__name__}"
            assert error(got, want) <= TOLERANCE, where
            assert error(got, meant) <= TOLERANCE, where


def call(linked, name, case, operands, module, want, tokens):
    """Results of a kernel; state results are the operands' arrays."""
    memory = [[aligned(a) for a in o.memory()] for o in operands]
    states = [m[0] for m, t in zip(memory, case.types, strict=True) if isinstance(t, StateType)]
    results = module["main"].ops[-1].results
    outs = [states.pop(0) if isinstance(r.type, StateType) else aligned(np.full_like(w, 77))
            for r, w in zip(results, want, strict=True)]
    new = [o for r, o in zip(results, outs, strict=True) if not isinstance(r.type, StateType)]
    linked(name, [*(a for m in memory for a in m), *new], tokens)
    return outs


def test_every_code_and_scale_is_decoded_exactly(tmp_path: Path) -> None:
    """All fp8 codes but NaN, all fp4 codes, scales 2^-127 .. 2^127, bit for bit."""
    fp8 = np.tile(np.delete(np.arange(256), [0x7F, 0xFF]).astype(np.uint8), (256, 1))
    scales = np.arange(255, dtype=np.uint8)
    tables = {}
    nibbles = np.tile(np.arange(256, dtype=np.uint8), (255, 1))
    groups = np.tile(scales[:, None], (1, 16))
    with np.errstate(over="ignore"):
        for scale in (0, 1, 100, 127, 150, 254):
            grid = np.full((2, 2), scale, np.uint8)
            tables[f"fp8_{scale}"] = (from_codes(fp8, grid, BLOCK_FP8), BLOCK_FP8)
        tables["fp4"] = (from_codes(nibbles, groups, GROUP_FP4), GROUP_FP4)
    kernels = {}
    for name, (weight, codec) in tables.items():
        case = Case("embedding", (f32(*weight.value.shape, codec=codec), i32(B, S)))
        module = case.module({"B": 1})
        kernels[name] = generic_kernel(name, module["main"].ops[0], module)
    linked = Linked(kernels.values(), tmp_path)
    for name, (weight, _) in tables.items():
        rows = len(weight.value)
        out = aligned(np.zeros((1, *weight.value.shape), np.float32))
        ids = aligned(np.arange(rows, dtype=np.int32)[None])
        linked(name, [*map(aligned, weight.pointers), ids, out], rows)
        np.testing.assert_array_equal(out[0].view(np.int32), weight.value.view(np.int32))
    linked.close()


def test_entries_of_a_context_shorter_than_a_block(tmp_path: Path) -> None:
    """No entry fits: nothing is selected, nothing is appended, attention sees the window only."""
    cases = [c for c in composites() if ENTRIES.kind in {getattr(t, "kind", "") for t in c.types}]
    cases = [c for c in cases if "index" not in TABLE[c.op].bind(len(c.types))]
    made = {f"{c.op}_{i}": (c, c.module({"B": 1, "C": 3})) for i, c in enumerate(cases)}
    linked = Linked([generic_kernel(n, m["main"].ops[0], m) for n, (_, m) in made.items()],
                    tmp_path)
    sizes, random = {"B": 1, "S": 2, "C": 3}, np.random.default_rng(0)
    for name, (case, module) in made.items():
        operands = list(case.arrays(random, sizes, 1, plain))
        want = run(module, "main", [o.value for o in operands], sizes)
        got = call(linked, name, case, operands, module, want, 2)
        assert error(got, want) <= TOLERANCE, name
    linked.close()


def test_stacked_experts_of_more_than_2_to_the_31_elements(tmp_path: Path) -> None:
    """The last expert is reached; memory that is never touched costs nothing."""
    e, n, k = 256, 4096, 2048
    case = Case("expert_linear", (f32(B, S, k), f32(e, n, k, codec=GROUP_FP4), i32(B, S, 1)))
    module = case.module({"B": 1, "S": 1})
    linked = Linked([generic_kernel("wide", module["main"].ops[0], module)], tmp_path)
    random = np.random.default_rng(0)
    codes, scales = untouched((e, n, k // 2)), untouched((e, n, k // 32))
    codes[-1], scales[-1] = random.integers(0, 256, codes.shape[1:]), 127
    x = aligned(random.standard_normal((1, 1, k)).astype(np.float32))
    out = aligned(np.zeros((1, 1, 1, n), np.float32))
    last = aligned(np.full((1, 1, 1), e - 1, np.int32))
    linked("wide", [x, codes, scales, last, out], 1)
    want = x[0, 0] @ codecs.decode_weight(codes[-1], scales[-1], GROUP_FP4).T
    assert error([out[0, 0, 0]], [want]) <= TOLERANCE
    linked.close()


def untouched(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros at a 64-byte boundary that take no memory until they are written."""
    room = np.zeros(math.prod(shape) + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + math.prod(shape)].reshape(shape)


def test_a_call_has_no_kernel() -> None:
    case = Case("repeat", (f32(B, S, 3, 3),), {"count": 1}, callee=halve_and_mix)
    module = case.module({"B": 1})
    op = module["main"].ops[0]
    called = Op("call", op.operands, {"callee": "callee"}, op.results)
    with pytest.raises(FirstlightError, match="F450"):
        generic_kernel("call", called, module)


def test_an_op_must_be_specialised() -> None:
    case = Case("entries_read", (ENTRIES, I32))
    module = case.module({})
    with pytest.raises(FirstlightError, match="F451"):
        generic_kernel("read", module["main"].ops[0], module)
