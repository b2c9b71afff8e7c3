"""The kernels' own functions against numpy in float64: vector body and scalar tail."""

import numpy as np
import pytest

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import prim_func
from firstlight.targets.cpu.kernels import vecmath
from firstlight.targets.cpu.kernels.vecmath import flat, get, put, sweep
from support.kernel_call import LANES, Compiled

COUNT = 20_003


def evaluate(function, values: np.ndarray, lanes: int) -> list[np.ndarray]:
    """[function(values)], twice unless it returns two."""

    def body(x_, y_, z_, S):
        x, y, z = flat(x_), flat(y_), flat(z_)

        def step(i, n):
            got = function(get(x, i, lanes=n), n)
            pair = got if isinstance(got, tuple) else (got, got)
            put(y, pair[0], i, lanes=n)
            put(z, pair[1], i, lanes=n)

        sweep(len(values), lanes, step)

    func = prim_func("k", [(n, "float32") for n in "xyz"], body)
    return Compiled(Kernel("k", func, (None,)), lanes)([values], [values, values], 1)


def spread_values(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, COUNT).astype(np.float32)


CASES = {
    "exp": (spread_values(-87, 88), np.exp),
    "log1p": (10 ** spread_values(-30, 0), np.log1p),
    "sigmoid": (spread_values(-87, 87), lambda x: 1 / (1 + np.exp(-x))),
    "softplus": (spread_values(-87, 200), lambda x: np.logaddexp(0, x)),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("lanes", LANES)
def test_relative_error(name, lanes):
    x, reference = CASES[name]
    got, _ = evaluate(getattr(vecmath, name), x, lanes)
    assert np.abs(got / reference(x.astype(np.float64)) - 1).max() < 3e-7


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("top", [1, 1000, 2**20])
def test_sin_cos_absolute_error(lanes, top):
    x = np.concatenate([spread_values(-top, top), np.arange(0, top, top / 100, np.float32)])
    sin, cos = evaluate(vecmath.sin_cos, x, lanes)
    for got, reference in ((sin, np.sin), (cos, np.cos)):
        assert np.abs(got - reference(x.astype(np.float64))).max() < 1.5e-7


def test_far_values():
    far = np.array([-np.inf, -1e30, -1e4, 0, 1e4, 1e30, np.nan], np.float32)
    exp, _ = evaluate(vecmath.exp, far, 8)
    assert list(exp[:4]) == [0, 0, 0, 1]
    assert np.isfinite(exp[:-1]).all()
    softplus, _ = evaluate(vecmath.softplus, far, 8)
    assert np.array_equal(softplus[[0, 1, 2, 4, 5]], np.array([0, 0, 0, 1e4, 1e30], np.float32))
    assert np.isnan([exp[-1], softplus[-1]]).all()
