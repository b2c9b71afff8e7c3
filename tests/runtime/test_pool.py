"""The native launcher itself: parallel regions, errors from workers, scratch memory."""

import ctypes
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from firstlight.runtime.launchers import cpu
from support.fake_artifact import toy_library


class Pool:
    """The toy library and one pool of it; calls kernels by name."""

    def __init__(self, threads: int) -> None:
        self.library = cpu._open_library(toy_library())
        self.pool = self.library.fl_start(threads)
        self.threads = self.library.fl_threads(self.pool)

    def program(self, name: str, *args: int | np.ndarray, steps: int = 1) -> Callable[[], int]:
        """A function that calls a kernel ``steps`` times: -1, or the step that failed."""
        packed = np.zeros(len(args), cpu._ARG)
        for i, a in enumerate(args):
            packed[i] = (1, 0, a) if isinstance(a, int) else (4, 0, a.ctypes.data)
        calls = np.zeros(steps, cpu._STEP)
        address = ctypes.cast(getattr(self.library, "__tvm_ffi_" + name), ctypes.c_void_p).value
        calls["kernel"], calls["args"], calls["n_args"] = address, packed.ctypes.data, len(args)
        scalars = np.zeros(2, np.int64)
        run, fixed = self.library.fl_run, (self.pool, calls.ctypes.data, steps, None, 0)
        return lambda: (calls, packed, run(*fixed, scalars.ctypes.data))[-1]

    def error(self) -> str:
        return self.library.fl_error().decode()


@pytest.fixture(params=[1, 2, 3, 8])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    made = Pool(request.param)
    assert made.threads == request.param
    yield made
    made.library.fl_stop(made.pool)


@pytest.mark.parametrize("n", [1, 3, 1000])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_element_is_computed_once(pool: Pool, n: int, depth: int):
    out = np.zeros(n, np.int64)
    assert pool.program("count", out, n, 200, depth, -1)() == -1
    assert (out == 200).all()


def test_many_tiny_regions(pool: Pool):
    regions = 20000 if pool.threads <= 2 else 1000  # more threads than cores sleep and wake
    out = np.zeros(8, np.int64)
    assert pool.program("count", out, 8, regions, 0, -1)() == -1
    assert (out == regions).all()


def test_an_error_from_any_task_reaches_the_caller(pool: Pool):
    out = np.zeros(64, np.int64)
    for fail_at in (0, 31, 63):
        assert pool.program("count", out, 64, 3, 0, fail_at)() == 0
        assert pool.error() == "ToyError: the toy task gave up"
        assert pool.program("count", out, 64, 1, 1, -1)() == -1
        assert pool.error() == ""


def test_several_callers_share_a_pool(pool: Pool):
    failures: list[object] = []

    def work() -> None:
        out = np.zeros(100, np.int64)
        for _ in range(20):
            out[:] = 0
            if pool.program("count", out, 100, 50, 1, -1)() != -1 or not (out == 50).all():
                failures.append(out.copy())
            if pool.program("scratch", 1 << 16, 4)() != -1:
                failures.append(pool.error())

    callers = [threading.Thread(target=work) for _ in range(5)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not failures


@pytest.mark.parametrize("nbytes", [8, 1024, 1 << 20, 3 << 20, 200 << 20])
@pytest.mark.parametrize("levels", [1, 2, 9])
def test_scratch_memory_grows_as_needed(pool: Pool, nbytes: int, levels: int):
    run = pool.program("scratch", nbytes, levels, steps=3)
    assert run() == -1, pool.error()
    assert pool.program("scratch", 64, 1)() == -1


def test_scratch_that_a_failed_kernel_left_is_taken_back(pool: Pool):
    for _ in range(100):  # 20 GiB if it were not
        assert pool.program("scratch", 200 << 20, -1)() == 0
    assert pool.program("scratch", 1 << 20, 3)() == -1


def test_too_much_scratch_is_an_error(pool: Pool):
    for nbytes in (1 << 55, 1 << 62):
        assert pool.program("scratch", nbytes, 1)() == 0
        assert pool.error() == "MemoryError: no memory for a kernel's workspace"
    assert pool.program("scratch", 1 << 20, 3)() == -1


def test_the_failing_step_is_named(pool: Pool):
    assert pool.program("nothing", steps=1000)() == -1
    assert pool.program("scratch", 64, -1, steps=3)() == 0


def test_pools_come_and_go():
    for _ in range(50):
        pool = Pool(3)
        out = np.zeros(10, np.int64)
        pool.program("count", out, 10, 5, 0, -1)()
        pool.library.fl_stop(pool.pool)
        assert (out == 5).all()


def test_measuring_sticks(model):
    assert 1e8 < model.engine.read_bandwidth(16 << 20, 2) < 1e13
    assert 1e8 < model.engine.flops(2) < 1e15
