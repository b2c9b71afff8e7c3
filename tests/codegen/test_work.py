"""Work of ops, counted by hand."""

import pytest

from firstlight.codegen.work import Work, op_work
from firstlight.ir.dims import B, C, S
from firstlight.ir.types import GROUP_FP4, StateType, TensorType, Type
from firstlight.targets.conform.cases import Case

SIZES = {"B": 1, "S": 4, "C": 40}
X, I32 = TensorType((B, S, 64), "f32"), TensorType((B,), "i32")
RING, ENTRIES = StateType("ring", 32, 8), StateType("entries", 32, ratio=4)


def weight(*shape: int) -> TensorType:
    return TensorType(shape, "f32", GROUP_FP4)


def work(name: str, *types: Type, callee=None, **attrs) -> Work:
    case = Case(name, types, attrs, callee=callee)
    module = case.module({})
    return op_work(module["main"].ops[-1], module, SIZES)


def test_a_product_reads_its_weight_once_a_call():
    done = work("linear", X, weight(5, 64))
    assert done == Work(flops=2 * 4 * 5 * 64, weights=5 * (32 + 2), values=4 * 4 * (64 + 5))
    assert done.per(4) == {"flops": 640, "weight_bytes": 42.5, "state_bytes": 0,
                           "value_bytes": 276}


def test_chosen_experts_are_read_and_the_rows_of_tokens():
    """Of 8 experts, 4 tokens that choose 2 each are expected to reach 8 (1 - (3/4)^4)."""
    index = TensorType((B, S, 2), "i32")
    done = work("expert_linear", X, weight(8, 5, 64), index)
    assert done.weights == pytest.approx(8 * (1 - 0.75 ** 4) * 5 * 34)
    assert done.flops == 2 * 4 * 2 * 5 * 64
    assert work("embedding", weight(11, 64), TensorType((B, S), "i32")).weights == 4 * 34


def test_states_are_read_as_far_as_an_op_looks():
    q, kv = TensorType((B, S, 2, 32), "f32"), TensorType((B, S, 32), "f32")
    common = (q, kv, TensorType((2,), "f32"), TensorType((4,), "f32"), RING, I32, I32)
    row = 4 * 32
    assert work("hybrid_attention", *common, scale=1.0).state == 8 * row
    assert work("hybrid_attention", *common, ENTRIES, scale=1.0).state == (8 + 10) * row
    picked = work("hybrid_attention", *common, ENTRIES, TensorType((B, S, 2), "i32"), scale=1.0)
    assert picked.state == (8 + 4 * 2) * row
    normed = (*common[:2], TensorType((32,), "f32"), *common[2:], ENTRIES)
    assert work("norm_rope_attention", *normed, eps=1e-6, scale=1.0).state == (8 + 10) * row
    assert work("ring_write", RING, kv, I32, I32).state == 4 * row
    assert work("ring_read", RING, I32, I32).state == 8 * row


def test_what_is_repeated_counts_each_time():
    once = work("add", X, X).flops
    assert work("repeat", X, callee=lambda x: x + x, count=3).flops == 3 * once == 3 * 4 * 64


def test_sizes_of_the_context_count():
    assert work("copy", TensorType((B, C, 2), "f32")).values == 2 * 4 * 40 * 2
