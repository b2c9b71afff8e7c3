"""The regions that a kernel tells are the loops that threads share."""

import json

from firstlight.codegen.regions import regions
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.measure.scale import _ways
from firstlight.runtime import load
from firstlight.runtime.sizes import value
from firstlight.targets.cpu.kernels.schedule import parallel_few
from firstlight.targets.cpu.kernels.vecmath import flat


def test_a_loop_tells_its_number_or_the_most_of_it_or_nothing():
    def body(x_, S):
        x = flat(x_, "int32")

        def put(i):
            T.buffer_store(x, T.int32(1), [i])

        for count in (T.int32(512), S, (S + 3) // 4, T.min(S * 6, 128), x[0]):
            with T.parallel(count) as i:
                put(i)
        with parallel_few(x[0], 32) as i:
            put(i)
        with T.serial(S) as i:
            put(i)

    got = regions(prim_func("k", [("x", "int32")], body))
    assert got[0] == 512
    assert [value(size, 10) for size in got[1:4]] == [10, 3, 60]
    assert value(got[3], 1000) == 128
    assert got[4:] == [None, 32]


def test_a_loop_inside_a_parallel_one_is_no_region_and_one_in_a_branch_is():
    def body(x_, S):
        x = flat(x_, "int32")
        with T.parallel(8) as i, T.parallel(4) as j:
            T.buffer_store(x, T.int32(1), [4 * i + j])
        with T.If(S > 1), T.Then(), T.parallel(3) as i:
            T.buffer_store(x, T.int32(1), [i])

        with T.If(S > 2):
            with T.Then(), T.parallel(2) as i:
                T.buffer_store(x, T.int32(1), [i])
            with T.Else():
                for count in (T.int32(5), S):
                    with T.parallel(count) as i:
                        T.buffer_store(x, T.int32(1), [i])

    assert regions(prim_func("k", [("x", "int32")], body)) == [8, 3, {"either": [[2], [5, "S"]]}]


def test_an_artifact_tells_those_of_every_kernel(tiny_artifact):
    found = json.loads((tiny_artifact / "debug.json").read_text())["regions"]
    with load(tiny_artifact, threads=1) as model:
        assert set(found) == set(model.program.kernels)
    kinds = {name.rsplit("_", 1)[0] for name, chunks in found.items() if chunks}
    assert {"linear", "expert_ffn", "norm_rope_attention"} <= kinds
    for chunks in found.values():
        assert all(n is None or n >= 0 for way in _ways(chunks, 1) for n in way)
