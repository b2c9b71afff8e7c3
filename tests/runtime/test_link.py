"""The tool chain: equal inputs give equal bytes; kernels of the real compiler run."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from firstlight.runtime import FirstlightError, cpu
from firstlight.runtime.launchers import cpu as launcher
from support.fake_artifact import MARCH, toolchain, toy_library

DRIVERS = [pytest.param(d, id=Path(d[-1]).name if len(d) == 1 else d[-2])
           for d in toolchain.drivers()]  # fmt: skip


@pytest.mark.parametrize("driver", DRIVERS)
def test_equal_bytes_from_different_folders(tmp_path, driver):
    toy_library()
    made = []
    for name in ("one", "another-longer-name"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "toy.o").write_bytes(toy_library().with_name("toy.o").read_bytes())
        march = MARCH[cpu.architecture()]
        toolchain.link([folder / "toy.o"], folder / "model.so", march, driver)
        made.append((folder / "model.so").read_bytes())
        assert str(tmp_path).encode() not in made[-1]
    assert made[0] == made[1]
    library = launcher._open_library(folder / "model.so")
    pool = library.fl_start(2)
    assert library.fl_threads(pool) == 2
    library.fl_stop(pool)


def test_without_any_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "drivers", lambda: [])
    with pytest.raises(FirstlightError, match="F410"):
        toolchain.link([], tmp_path / "x.so", "x86-64-v3")


def test_a_failing_compiler(tmp_path):
    (tmp_path / "bad.o").write_text("this is no object")
    with pytest.raises(FirstlightError) as caught:
        toolchain.link([tmp_path / "bad.o"], tmp_path / "x.so", MARCH[cpu.architecture()])
    assert caught.value.code == "F411"
    assert "bad.o" in caught.value.why
    with pytest.raises(FirstlightError, match="F411"):
        toolchain.link([], tmp_path / "x.so", "x86-64-v3", ["no-such-compiler"])
    assert not (tmp_path / "x.so").exists()


def test_a_kernel_of_tvm(tmp_path):
    pytest.importorskip("tvm")
    from firstlight.codegen.tvm_bridge import T, build_object

    @T.prim_func(s_tir=True)
    def scaled(x_: T.handle("float32"), y_: T.handle("float32"), S: T.int32):
        T.func_attr({"global_symbol": "scaled"})
        x = T.decl_buffer((S, 64), "float32", data=x_)
        y = T.decl_buffer((S, 64), "float32", data=y_)
        for s in T.parallel(S):
            wide = T.alloc_buffer((3000000,), "float32")  # 12 MB: workspace, not stack
            for j in range(64):
                wide[j * 40000] = x[s, j] * T.float32(2)
            for j in range(64):
                y[s, j] = T.exp(wide[j * 40000])

    target = {"mcpu": "x86-64-v3"} if cpu.architecture() == "x86_64" else {}
    objects = [build_object({"scaled": scaled}, target, tmp_path / "kernels.o")]
    toolchain.link(objects, tmp_path / "model.so", MARCH[cpu.architecture()])
    library = launcher._open_library(tmp_path / "model.so")
    kernel = ctypes.cast(library.__tvm_ffi_scaled, ctypes.c_void_p).value
    for threads in (1, 2, 3):
        pool = library.fl_start(threads)
        for n in (1, 2, 37):
            memory = launcher._anonymous(2 * n * 256, "a test").view(np.float32)
            x, y = memory.reshape(2, n, 64)
            x[:] = np.random.default_rng(n).normal(size=(n, 64))
            args = np.array(
                [(4, 0, x.ctypes.data), (4, 0, y.ctypes.data), (1, 0, n)], launcher._ARG
            )
            step = np.array([(kernel, args.ctypes.data, 3)], launcher._STEP)
            scalars = np.array([n, 5], np.int64)
            assert library.fl_run(pool, step.ctypes.data, 1, None, 0, scalars.ctypes.data) == -1
            np.testing.assert_allclose(y, np.exp(2 * x), rtol=1e-6)
            assert scalars[launcher._POSITION_SLOT] == 5 + n
        library.fl_stop(pool)
