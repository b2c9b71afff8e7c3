"""Kernels tried on a device: what they write beside their buffers is told."""

from types import SimpleNamespace

import numpy as np
import pytest

from firstlight.runtime.launches import KernelLaunches, Launch
from firstlight.targets.devices import GUARD, DeviceExecutor


class Queue:
    """Memory of the host; a "kernel" is a function of all the memories it is given."""

    def allocate(self, nbytes):
        return np.zeros(nbytes, np.uint8)

    def write(self, memory, offset, data):
        memory[offset:offset + len(data)] = data

    def read(self, memory, offset, out):
        out[...] = memory[offset:offset + len(out)]

    def finish(self):
        pass

    def bind(self, calls):
        return calls

    def run(self, calls):
        for call in calls:
            call.function(*call.args)


def executor(kernel):
    launch = Launch(entry="k", module=0, grid=(1,), group=(1,), shared=0, args=(0, 1))
    launches = KernelLaunches(pointers=2, workspace=0, launches=(launch,))
    driver = SimpleNamespace(queue=Queue)
    return DeviceExecutor("host", driver, lambda symbol: (launches, {"k": kernel}))


def test_results_come_back():
    def double(x, y):
        count = 12
        assert x.offset == GUARD
        y.memory[y.offset:y.offset + count] = 2 * x.memory[x.offset:x.offset + count]

    x, y = np.arange(12, dtype=np.uint8), np.zeros(12, np.uint8)
    executor(double).run("double", [x, y], 1)
    assert (y == 2 * x).all()


@pytest.mark.parametrize(("at", "where"), [(-1, "before"), (12, "behind"), (GUARD, "behind")])
def test_a_byte_beside_a_buffer_is_told(at, where):
    def wrong(x, y):
        y.memory[y.offset + at] = 0

    with pytest.raises(RuntimeError, match=f"wrong, pointer 1: memory {where} it"):
        executor(wrong).run("wrong", [np.zeros(12, np.uint8), np.zeros(12, np.uint8)], 1)


def test_an_array_that_is_given_twice_is_one_memory():
    def second_after_first(x, y):
        y.memory[y.offset] = 0
        y.memory[y.offset + 1] = x.memory[x.offset] + 1

    array = np.full(2, 5, np.uint8)
    executor(second_after_first).run("k", [array, array[:]], 1)
    assert array.tolist() == [0, 1]
