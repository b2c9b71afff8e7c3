"""Functions written out in nodes, computed by numpy in float32 as a vector unit would."""

import numpy as np
import pytest

from firstlight.codegen.nests import functions
from firstlight.codegen.nests.nodes import Node, make

OPS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "eq": np.equal,
    "ne": np.not_equal, "ge": np.greater_equal, "and": np.bitwise_and, "shr": np.right_shift,
    "nearbyint": np.rint, "log": np.log, "select": np.where,
}  # fmt: skip


def compute(node: Node, x: np.ndarray) -> np.ndarray:
    if node.op == "load":
        return x
    if node.op == "const":
        return np.dtype(node.dtype).type(node.args[0])
    args = [compute(a, x) for a in node.args]
    result = args[0].astype(node.dtype) if node.op == "cast" else OPS[node.op](*args)
    assert result.dtype == node.dtype
    return result


@pytest.mark.parametrize("name", ["sin", "cos"])
@pytest.mark.parametrize("most", [1.0, 100.0, 1e4, 1.6e6])
def test_angles_of_all_positions(name, most):
    rng = np.random.default_rng(int(most))
    x = rng.uniform(-most, most, 200_000).astype(np.float32)
    turns = np.arange(-4096, 4096) * (np.pi / 4)
    x = np.concatenate([x, turns[np.abs(turns) < most].astype(np.float32),
                        np.float32([0, -0.0, 1e-30, most])])
    got = compute(getattr(functions, name)(make("load", "float32", "x")), x)
    assert np.abs(got - getattr(np, name)(x.astype(np.float64))).max() < 2.4e-7


def test_small_sums_and_bits():
    x = np.float32([0, 1e-20, -1e-9, 3e-8, 0.5, 7, 1e30])
    node = functions.log1p(make("load", "float32", "x"), lambda y: make("log", "float32", y))
    got = compute(node, x)
    np.testing.assert_allclose(got, np.log1p(x.astype(np.float64)), rtol=3e-7)
    bits = np.int32([0, 1, 255, 0x7FFFFFFF, 0x12345678])
    assert compute(functions.popcount(make("load", "int32", "x")), bits).tolist() == [
        int(b).bit_count() for b in bits]
