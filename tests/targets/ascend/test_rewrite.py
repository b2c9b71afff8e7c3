"""Lowered modules to upstream MLIR, without any of the tools: what the text says, and refusals."""

import re
from pathlib import Path

import pytest

from firstlight.targets.ascend.rewrite import Entry, rewrite
from firstlight.targets.ascend.rewrite_ops import MemRef, Refused, balanced, memref, parse, split

LOWERED = Path(__file__).with_name("lowered")
NAMES = sorted(path.stem for path in LOWERED.glob("*.mlir"))


def lowered(name: str) -> str:
    return (LOWERED / f"{name}.mlir").read_text()


def vector_function(*lines: str) -> str:
    """A module with one vector function."""
    return "\n".join(["module {", "  func.func @f(%arg0: vector<64xf32>) attributes "
                      "{hivm.func_core_type = #hivm.func_core_type<AIV>, hivm.vector_function} {",
                      *lines, "    return", "  }", "}", ""])


@pytest.mark.parametrize("name", NAMES)
def test_no_op_of_the_chip_is_left(name):
    module = rewrite(lowered(name))
    names = {op.name for op in parse(module.text)[1].walk()}
    assert not {n for n in names if n.startswith(("hivm", "annotation", "builtin"))}
    assert not {"hivm", "hacc", "hfusion"} & set(module.text.replace(".", " ").split())
    assert rewrite(lowered(name)) == module


def test_entries_of_a_mixed_kernel():
    scalars = ("i32",) * 3
    tensors = ("memref<?xbf16>",) * 3
    assert set(rewrite(lowered("attention")).entries) == {
        Entry("attention_mix_aic", "aic", tensors + scalars),
        Entry("attention_mix_aiv", "aiv", tensors + scalars)}


def test_a_kernel_line_by_line():
    """Gather: what it loads from where, in the order of the text, and nothing more."""
    text = rewrite(lowered("gather")).text
    calls = re.findall(r"call (@\w+)|(scf\.for|memref\.load)", text)
    assert ["".join(call) for call in calls] == [
        "@emu_block_idx", "@piece0", "scf.for", "memref.load", "@emu_move", "@emu_move"]
    assert "func.func @gather(%arg0: memref<?xbf16>, %arg1: memref<?xi32>, " in text
    assert "%ub: memref<253952xi8>, %l1: memref<524288xi8>, %l0c: memref<262144xi8>" in text


def test_types():
    assert memref("memref<?x64xbf16, strided<[256, 1], offset: ?>, #hivm.address_space<gm>>") == (
        MemRef((None, 64), "bf16", "strided<[256, 1], offset: ?>", "gm"))
    assert memref("memref<4xf8E4M3FN, #map, #hivm.address_space<cc>>") == MemRef(
        (4,), "f8E4M3FN", "#map", "l0c")
    assert memref("memref<i32>") == MemRef((), "i32", "", "")
    assert split("%a, (%b, %c) -> (x), {d = [1, 2]}") == ["%a", "(%b, %c) -> (x)", "{d = [1, 2]}"]
    assert balanced("f(a -> b<c>)", 1) == 11


def test_an_accumulator_that_is_named_but_not_used():
    text = vector_function("    %c = arith.constant 1.0 : f32",
                           "    %0 = vector.reduction <add>, %arg0, %c {withoutInitMergeOp} : "
                           "vector<64xf32> into f32",
                           "    %1 = vector.reduction <add>, %arg0, %c : vector<64xf32> into f32")
    out = rewrite(text).text
    assert "%0 = vector.reduction <add>, %arg0 : vector<64xf32> into f32" in out
    assert "%1 = vector.reduction <add>, %arg0, %c : vector<64xf32> into f32" in out


def test_rounding_becomes_an_op():
    text = vector_function("    %0 = arith.fptosi %arg0 {round_mode = #hfusion.round_mode<floor>} "
                           ": vector<64xf32> to vector<64xi32>")
    assert "math.floor %arg0 : vector<64xf32>" in rewrite(text).text


@pytest.mark.parametrize(("line", "named"), [
    ("hivm.hir.vmagic ins(%arg0 : vector<64xf32>)", "an op hivm.hir.vmagic"),
    ("%0 = arith.fastadd %arg0, %arg0 : vector<64xf32>", "an op arith.fastadd"),
    ("%0 = arith.addf %arg0, %arg0 {modulo} : vector<64xf32>", "an attribute modulo of arith.addf"),
    ("%0 = arith.truncf %arg0 {round_mode = #hfusion.round_mode<odd>} : vector<64xf32> to "
     "vector<64xbf16>", "rounding odd of arith.truncf"),
    ("%0 = arith.fptosi %arg0 {enable_saturate = true} : vector<64xf32> to vector<64xi8>",
     "saturation"),
    ("%0 = builtin.unrealized_conversion_cast %arg0 : vector<64xf32> to vector<8x8xf32>",
     "a form of builtin.unrealized_conversion_cast"),
    ("hivm.hir.load ins(%a : memref<4xf32, #hivm.address_space<gm>>) outs(%b : memref<4xf32, "
     "#hivm.address_space<ub>>) twice = 1", "option twice of hivm.hir.load"),
    ("hivm.hir.load ins(%a : memref<4xf32, #hivm.address_space<gm>>) outs(%b : memref<4xf32, "
     "#hivm.address_space<moon>>)", "memory space moon"),
    ("hivm.hir.sync_block[<ALL_CUBE>] flag = 1", "an op hivm.hir.sync_block"),
    ("^bb1:", "a line that is no op"),
])
def test_what_is_unknown_is_refused_by_name(line, named):
    with pytest.raises(Refused) as error:
        rewrite(vector_function(f"    {line}"))
    assert named in str(error.value)
    assert error.value.code == "F471"


def test_a_mask_may_be_read_as_one_row():
    text = vector_function(
        "    %m = hivm.hir.pointer_cast(%c) : memref<1x32xi1, #hivm.address_space<ub>>",
        "    %0 = vector.transfer_read %m[%i, %j], %false, %k {in_bounds = [true, true, true], "
        "permutation_map = affine_map<(d0, d1) -> (0, d0, d1)>} : memref<1x32xi1, "
        "#hivm.address_space<ub>>, vector<1x1x64xi1>")
    out = rewrite(text).text
    assert re.search(r"vector.shape_cast %k : vector<1x64xi1> to vector<64xi1>", out)
    assert re.search(r"%0 = vector.shape_cast \S+ : vector<64xi1> to vector<1x1x64xi1>", out)
    with pytest.raises(Refused, match="for masks"):
        rewrite(text.replace("(0, d0, d1)", "(0, d1, d0)"))
