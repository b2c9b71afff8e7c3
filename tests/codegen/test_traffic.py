"""Bytes of a kernel's launches, counted by hand."""

from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.nests.traffic import kernel_traffic
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType


def kernel(body, *types):
    module = Module({"main": trace("main", body, types)})
    return generic_kernel("k", module["main"].ops[-1], module)


def test_elements_are_read_and_written_once():
    made = kernel(lambda x: x.emit("relu"), TensorType((1, S, 64), "f32"))
    assert kernel_traffic(made, 3) == [2 * 4 * 3 * 64]


def test_a_product_reads_its_matrix_and_a_chosen_row_is_one_row():
    x = TensorType((1, S, 64), "f32")
    product = kernel(lambda x, w: x.emit("linear", w), x, TensorType((32, 64), "f32", "f32"))
    assert sum(kernel_traffic(product, 1)) == 4 * (64 + 32 * 64 + 32)
    table = TensorType((1000, 64), "f32", "f32")
    row = kernel(lambda w, i: w.emit("embedding", i), table, TensorType((1, S), "i32"))
    assert sum(kernel_traffic(row, 1)) == 4 * (1 + 64 + 64)


def test_two_codes_in_a_byte_and_a_scale_for_32_of_them():
    """Of 8 experts the chosen two: half a byte and a 32nd of a byte for each element."""
    x, index = TensorType((1, S, 64), "f32"), TensorType((1, S, 2), "i32")
    weight = TensorType((8, 16, 64), "f32", "fp4e2m1/32:ue8m0")
    made = kernel(lambda x, w, i: x.emit("expert_linear", w, i), x, weight, index)
    chosen = 2 * 16 * 64
    assert sum(kernel_traffic(made, 1)) == 4 * 64 + chosen / 2 + chosen / 32 + 4 * 2 + 4 * 2 * 16
