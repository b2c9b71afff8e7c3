"""Float16 by integers: every code there is."""

import numpy as np

from firstlight.codegen.simt import scheduled
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType
from firstlight.targets.opencl.source import source
from support.simt import call, chip, generic

CODES = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
ROWS = Module({"main": trace("main", lambda table, ids: table.emit("embedding", ids), [
    TensorType((256, 256), "f32", "f16"), TensorType((1, S), "i32")])})


def test_every_code_has_its_value(tmp_path) -> None:
    ids = np.arange(256, dtype=np.int32)[None]
    got = call(tmp_path, generic("rows", ROWS), chip(), [CODES.view(np.float16), ids],
               ((1, 256, 256), np.float32), 256)[0]
    want = CODES.view(np.float16).astype(np.float32)
    assert np.array_equal(got, want, equal_nan=True)
    assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()


def test_no_half_is_left_in_the_source() -> None:
    assert "half" not in source(scheduled(generic("rows", ROWS), chip()))
