"""Kernels lowered by the chip's own compiler, executed here, against numpy."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.targets.ascend import emulator as emulator_module
from firstlight.targets.ascend import emulator_build
from firstlight.targets.ascend.compiler import Lowered
from firstlight.targets.ascend.emulator import Emulator, EmulatorError
from firstlight.targets.ascend.emulator_build import lacking
from firstlight.targets.ascend.rewrite_ops import Refused
from support.ascend_kernels import CASES, Text

pytestmark = [
    pytest.mark.chip,
    pytest.mark.skipif(bool(lacking()), reason=f"not here: {', '.join(lacking())}; "
                       "pip install 'firstlight[ascend]' and make ascend-tools"),
]


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator({name: (case.text, case.record) for name, case in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_a_lowered_kernel_computes_what_numpy_does(name, emulator):
    case = CASES[name]
    arrays, want = case.data(np.random.default_rng(7))
    emulator.run(name, arrays, 1)
    got = arrays[-1]
    if case.tolerance:
        error = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
        assert error < case.tolerance
    else:
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


def test_what_is_only_our_belief_is_named(emulator):
    assert set(emulator.beliefs) == {name for name, case in CASES.items() if case.belief}
    assert any("scale" in why for why in emulator.beliefs["mx_product"])


def test_launches_in_order_with_workspace_and_tokens():
    """y = 2 (2 x) by two launches over S blocks, the first into the workspace."""
    kernel = Text("double", {"x": "f32", "y": "f32"})
    at = kernel.op(f"arith.muli {kernel.pid}, {kernel.index(64)} : index")
    x = kernel.load("x", at, (64,), (1,))
    kernel.store(kernel.op(f"arith.addf {x}, {x} : tensor<64xf32>"), "y", at, (64,), (1,))
    record = {"pointers": 2, "workspace": ["mul", "S", 256], "launches": [
        {"entry": "double", "grid": ["S"], "args": [0, "w"]},
        {"entry": "double", "grid": ["S"], "args": ["w", 1]}]}
    x, y = np.random.default_rng(0).standard_normal((2, 320)).astype(np.float32)
    before = y.copy()
    Emulator({"double": (kernel.text(), record)}).run("double", [x, y], 3)
    np.testing.assert_array_equal(y[:192], 4 * x[:192])
    np.testing.assert_array_equal(y[192:], before[192:])


def test_an_access_outside_of_an_argument_is_an_error(emulator):
    arrays, _ = CASES["gather"].data(np.random.default_rng(0))
    arrays[1][5] = 100
    with pytest.raises(EmulatorError, match="a copy's source: bytes 51200 to 51712 of an argument"):
        emulator.run("gather", arrays, 1)


def test_arguments_that_do_not_fit_are_an_error(emulator):
    record = {"launches": [{"entry": "gather", "grid": [1], "args": [0, 1]}]}
    arrays, _ = CASES["gather"].data(np.random.default_rng(0))
    with pytest.raises(EmulatorError, match="takes 3 memories and 3 numbers, and is launched with"):
        Emulator({"short": (CASES["gather"].text, record)}).run("short", arrays, 1)


def test_what_was_not_written_is_not_zero():
    """Half of a tile is loaded and all of it stored: the rest is what lay there, not 0."""
    kernel = Text("half", {"x": "f32", "y": "f32"})
    window, kind = kernel.tile("x", kernel.index(0), (64,), (1,))
    room = kernel.op("memref.alloc() : memref<128xf32>")
    part = kernel.op(f"memref.subview {room}[0] [64] [1] : memref<128xf32> to memref<64xf32, "
                     "strided<[1]>>")
    kernel.lines.append(f"memref.copy {window}, {part} : {kind} to memref<64xf32, strided<[1]>>")
    x = kernel.op(f"bufferization.to_tensor {room} restrict writable : memref<128xf32>")
    kernel.store(x, "y", kernel.index(0), (128,), (1,))
    record = {"launches": [{"entry": "half", "grid": [1], "args": [0, 1]}]}
    x, y = np.ones(64, np.float32), np.zeros(128, np.float32)
    Emulator({"half": (kernel.text(), record)}).run("half", [x, y], 1)
    np.testing.assert_array_equal(y[:64], x)
    assert (y[64:].view(np.uint32) == 0xEEEEEEEE).all()


def test_lowered_code_that_is_unknown_is_refused_by_name():
    """A sum that wraps back and forth: `reverse` is lowered, and not executed."""
    kernel = Text("total", {"x": "f32", "y": "f32"})
    x = kernel.load("x", kernel.index(0), (8, 128), (128, 1))
    y = kernel.op(f"hfusion.cumsum {x} : tensor<8x128xf32> cum_dims = [1] reverse = true -> "
                  "tensor<8x128xf32>")
    kernel.store(y, "y", kernel.index(0), (8, 128), (128, 1))
    emulator = Emulator({"total": (kernel.text(), {"launches": []})})
    assert list(emulator.refused) == ["total"]
    with pytest.raises(Refused, match=r"F471.*running sum"):
        emulator.run("total", [], 1)


def test_masks_lie_in_memory_bit_by_bit(monkeypatch):
    """Row 1 of 2x256 bits is bytes 32 to 39: what lies behind the rows is not touched."""
    gm, ub = "memref<?xf32, #hivm.address_space<gm>>", "memref<64xf32, #hivm.address_space<ub>>"
    bits = "memref<2x256xi1, #hivm.address_space<ub>>"
    row = "memref<64xi1, strided<[1], offset: 256>, #hivm.address_space<ub>>"
    window = "memref<64xf32, strided<[1]>, #hivm.address_space<gm>>"
    lines = [f"%{v} = memref.reinterpret_cast %{v}0 to offset: [0], sizes: [64], strides: [1] : "
             f"{gm} to {window}" for v in "xy"] + [
        "%i = arith.constant 0 : index", "%f = arith.constant false",
        "%zero = arith.constant 0.0 : f32", "%zeros = arith.constant dense<0.0> : vector<64xf32>",
        "%at0 = arith.constant 0 : i64", "%at1 = arith.constant 64 : i64",
        f"%a = hivm.hir.pointer_cast(%at1) : {ub}", f"%m = hivm.hir.pointer_cast(%at0) : {bits}",
        f"hivm.hir.load ins(%x : {window}) outs(%a : {ub})",
        f"%v = vector.transfer_read %a[%i], %zero {{in_bounds = [true]}} : {ub}, vector<64xf32>",
        "%p = arith.cmpf ogt, %v, %zeros : vector<64xf32>",
        f"%r = memref.subview %m[1, 0] [1, 64] [1, 1] : {bits} to {row}",
        f"vector.transfer_write %p, %r[%i] {{in_bounds = [true]}} : vector<64xi1>, {row}",
        f"%q = vector.transfer_read %r[%i], %f {{in_bounds = [true]}} : {row}, vector<64xi1>",
        f"%w = vector.transfer_read %a[%i], %zero {{in_bounds = [true]}} : {ub}, vector<64xf32>",
        "%n = arith.negf %w : vector<64xf32>",
        "%s = arith.select %q, %w, %n : vector<64xi1>, vector<64xf32>",
        f"vector.transfer_write %s, %a[%i] {{in_bounds = [true]}} : vector<64xf32>, {ub}",
        f"hivm.hir.store ins(%a : {ub}) outs(%y : {window})"]
    body = "\n".join(f"    {line}" for line in lines)
    text = (f"module {{\n  func.func @absolute(%x0: {gm}, %y0: {gm}, %gx: i32, %gy: i32, %gz: i32) "
            "attributes {hacc.entry, hivm.func_core_type = #hivm.func_core_type<AIV>} {\n"
            f"{body}\n    return\n  }}\n}}\n")
    monkeypatch.setattr(emulator_build, "lower", lambda text, chip, where: Lowered("", text))
    record = {"launches": [{"entry": "absolute", "grid": [1], "args": [0, 1]}]}
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    y = np.zeros_like(x)
    Emulator({"absolute": (text, record)}).run("absolute", [x, y], 1)
    np.testing.assert_array_equal(y, np.abs(x))


LOWERED = Path(__file__).with_name("lowered")
LESS_A_FLAG = "    hivm.hir.sync_block_set[<VECTOR>, <PIPE_MTE3>, <PIPE_MTE1>] flag = 3\n"


@pytest.mark.parametrize(("old", "new"), [
    ("", ""), ("arith.constant 8448 : i64", "arith.constant 8432 : i64"),
    ("b_transpose", "a_transpose"), (LESS_A_FLAG, ""), (LESS_A_FLAG, 2 * LESS_A_FLAG),
], ids=["as it is", "16 bytes low", "not transposed", "a flag less", "a flag more"])
def test_a_fault_in_lowered_code_is_noticed(monkeypatch, old, new):
    """Cube and vector cores, as the compiler left them; an address, a product, a flag changed."""
    text, case = (LOWERED / "attention.mlir").read_text(), CASES["attention"]
    assert old in text
    lowered = Lowered("", text.replace(old, new) if old else text)
    monkeypatch.setattr(emulator_build, "lower", lambda text, chip, where: lowered)
    monkeypatch.setattr(emulator_module, "LIMIT_MS", 500)
    arrays, want = case.data(np.random.default_rng(7))
    machine = Emulator({"attention": (case.text, case.record)})
    if "flag" in old:
        what = "is left set" if new else "waits for flag [23] of another core, which does not"
        with pytest.raises(EmulatorError, match=what):
            machine.run("attention", arrays, 1)
        return
    machine.run("attention", arrays, 1)
    error = np.abs(arrays[-1].astype(np.float64) - want).max() / np.abs(want).max()
    assert (error < case.tolerance) == (not old), error


def test_each_vector_core_has_its_own_half_and_its_own_memory(monkeypatch):
    """The two of a block write their numbers to one address of UB, and store what lies there."""
    gm, ub = "memref<?xf32, #hivm.address_space<gm>>", "memref<64xf32, #hivm.address_space<ub>>"
    window = "memref<64xf32, strided<[1], offset: ?>, #hivm.address_space<gm>>"
    head = ("attributes {hacc.entry, hivm.func_core_type = #hivm.func_core_type<%s>, "
            "hivm.part_of_mix} {")
    vector = [
        "%z = arith.constant 0 : i64", "%i = arith.constant 0 : index",
        f"%a = hivm.hir.pointer_cast(%z) : {ub}", "%s = hivm.hir.get_sub_block_idx -> i64",
        "%f = arith.sitofp %s : i64 to f32", "%v = vector.broadcast %f : f32 to vector<64xf32>",
        f"vector.transfer_write %v, %a[%i] {{in_bounds = [true]}} : vector<64xf32>, {ub}",
        "hivm.hir.sync_block_set[<VECTOR>, <PIPE_V>, <PIPE_FIX>] flag = 5",
        "hivm.hir.sync_block_wait[<VECTOR>, <PIPE_FIX>, <PIPE_V>] flag = 6",
        "%n = arith.index_cast %s : i64 to index", "%w = arith.constant 64 : index",
        "%o = arith.muli %n, %w : index",
        f"%y = memref.reinterpret_cast %y0 to offset: [%o], sizes: [64], strides: [1] : {gm} to "
        f"{window}", f"hivm.hir.store ins(%a : {ub}) outs(%y : {window})"]
    cube = ["hivm.hir.sync_block_wait[<CUBE>, <PIPE_V>, <PIPE_FIX>] flag = 5",
            "hivm.hir.sync_block_set[<CUBE>, <PIPE_FIX>, <PIPE_V>] flag = 6"]
    text = "module {\n" + "".join(
        f"  func.func @k_mix_{name}(%y0: {gm}, %gx: i32, %gy: i32, %gz: i32) "
        f"{head % name.upper()}\n" + "".join(f"    {line}\n" for line in lines)
        + "    return\n  }\n" for name, lines in (("aic", cube), ("aiv", vector))) + "}\n"
    monkeypatch.setattr(emulator_build, "lower", lambda text, chip, where: Lowered("", text))
    y = np.full(128, 7, np.float32)
    record = {"launches": [{"entry": "k", "grid": [1], "args": [0]}]}
    Emulator({"k": (text, record)}).run("k", [y], 1)
    np.testing.assert_array_equal(y, np.repeat(np.float32([0, 1]), 64))
