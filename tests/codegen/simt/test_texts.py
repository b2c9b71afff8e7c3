"""What TVM's generators print: constants with all their digits."""

import re

import numpy as np
import pytest

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt import scheduled
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets import find
from firstlight.targets.opencl.source import source
from support.simt import chip, executor

NUMBERS = np.array([0.5, 1e-6, 0.1, 2.0**-24, np.pi, 1 + 2.0**-23, -2.0**-149, 3.4028235e38,
                    np.inf], np.float32)


def constants() -> Kernel:
    """y[i] = NUMBERS[i], for S = 1."""
    def body(y_, count) -> None:
        y = T.decl_buffer((len(NUMBERS),), "float32", data=y_)
        for i, number in enumerate(NUMBERS):
            T.buffer_store(y, T.float32(float(number)), [i])
    return Kernel("numbers", prim_func("numbers", [("y", "float32")], body), ())


def test_a_constant_is_the_number_that_it_was(tmp_path) -> None:
    y = np.zeros_like(NUMBERS)
    executor(tmp_path, scheduled(constants(), chip())).run("numbers", [y], 1)
    assert (y.view(np.uint32) == NUMBERS.view(np.uint32)).all()


@pytest.mark.parametrize(("text", "function"), [
    (lambda: source(scheduled(constants(), chip())), "as_float"),
    (lambda: find("cuda-sm90").emit(constants()).files["numbers.cu"].decode(), "__uint_as_float"),
])
def test_only_what_seven_digits_are_not_enough_for_is_given_by_bits(text, function: str) -> None:
    bits = [int(n) for n in re.findall(rf"{function}\((?:\(uint\))?(\d+)u?\)", text())]
    assert bits == NUMBERS[[3, 4, 5, 7]].view(np.uint32).tolist()
