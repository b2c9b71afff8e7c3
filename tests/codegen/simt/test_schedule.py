"""A kernel as launches: phases, their threads, and where arrays lie."""

import math

import numpy as np
import pytest

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt import scheduled
from firstlight.codegen.simt.sizes import evaluate
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.opencl.source import source
from support.simt import call, chip, executor, generic


def module(body, *shapes) -> Module:
    return Module({"main": trace("main", body, [TensorType(s, "f32") for s in shapes])})


RELU = module(lambda x: x.emit("relu"), (1, S, 24))
NORM = module(lambda x, w: x.emit("rms_norm", w, eps=1e-6), (1, S, 24), (24,))
NORM_ONE = module(lambda x, w: x.emit("rms_norm", w, eps=1e-6), (1, 1, 24), (24,))


@pytest.mark.parametrize("group", [32, 64, 256])
def test_every_element_has_a_thread(group: int) -> None:
    (phase,) = scheduled(generic("relu", RELU), chip(group=group)).phases
    assert phase.group == (group,)
    for tokens in (1, 2, 100):
        (groups,) = (evaluate(n, tokens) for n in phase.grid)
        assert (groups - 1) * group < 24 * tokens <= groups * group


def test_phases_of_one_token_share_a_launch_and_meet_at_barriers() -> None:
    many = scheduled(generic("norm", NORM), chip())
    one = scheduled(generic("norm", NORM_ONE), chip())
    assert len(many.phases) > 1
    assert [p.grid for p in one.phases] == [(1,)]
    written = source(one)
    assert written.count("barrier(") == 1, "one thread makes the factor, all of them use it"


def test_arrays_between_launches_lie_in_the_workspace_apart_from_each_other() -> None:
    plan = scheduled(generic("norm", NORM), chip())
    assert evaluate(plan.workspace, 1) == 2 * 64
    assert evaluate(plan.workspace, 100) == 2 * math.ceil(400 / 64) * 64
    assert all("w" in phase.arguments for phase in plan.phases)
    assert plan.pointers == 3
    assert [phase.entry for phase in plan.phases] == [f"norm_{i}" for i in range(len(plan.phases))]


def own_array(size: int) -> Kernel:
    """y[s] = x[s, 0] + ... + x[s, size - 1], by way of an array of each round of the loop."""
    def body(x_, y_, count) -> None:
        x = T.decl_buffer((count * size,), "float32", data=x_)
        y = T.decl_buffer((count,), "float32", data=y_)
        with T.parallel(count) as s:
            kept = T.alloc_buffer((size,), "float32")
            with T.serial(size) as i:
                T.buffer_store(kept, x[s * size + i], [i])
            T.buffer_store(y, T.float32(0), [s])
            with T.serial(size) as i:
                T.buffer_store(y, y[s] + kept[size - 1 - i], [s])
    return Kernel("own", prim_func("own", [("x", "float32"), ("y", "float32")], body), (None,))


@pytest.mark.parametrize(("private", "resident"), [(1 << 10, 64), (16, 64), (16, 1 << 14)])
def test_arrays_too_large_for_a_thread_take_turns(private: int, resident: int, tmp_path) -> None:
    kernel, tokens = own_array(10), 150
    plan = scheduled(kernel, chip(group=32, private_bytes=private, resident=resident))
    places = 0 if private > 40 else min(tokens, resident)
    assert evaluate(plan.workspace, tokens) == 64 * places
    x = np.random.default_rng(0).integers(-9, 9, (tokens, 10)).astype(np.float32)
    y = np.zeros(tokens, np.float32)
    executor(tmp_path, plan).run("own", [x, y], tokens)
    assert (y == x.sum(1)).all()


@pytest.mark.parametrize("threads", [
    {"group": 1}, {"group": 7}, {"group": 128, "warp": 32}, {"private_bytes": 4}])
def test_any_chip_of_threads_computes_the_same(threads: dict, tmp_path) -> None:
    random = np.random.default_rng(1)
    x, w = random.standard_normal((1, 5, 24), np.float32), random.standard_normal(24, np.float32)
    got = call(tmp_path, generic("norm", NORM), chip(**threads), [x, w], (x.shape, np.float32), 5)
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * w
    assert np.abs(got - want).max() < 1e-5


def test_a_size_that_a_host_cannot_know_is_refused() -> None:
    def body(n_, y_, count) -> None:
        n = T.decl_buffer((1,), "int32", data=n_)
        y = T.decl_buffer((1,), "float32", data=y_)
        with T.parallel(n[0]) as i:
            T.buffer_store(y, T.float32(1), [i])
    func = prim_func("data", [("n", "int32"), ("y", "float32")], body)
    with pytest.raises(FirstlightError, match="F453"):
        scheduled(Kernel("data", func, (None,)), chip())
