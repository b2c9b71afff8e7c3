"""Generic kernels as MLIR, and what the chip's compiler makes of it where it is installed."""

import json
import re

import pytest

from firstlight import targets
from firstlight.codegen.kernel import Kernel
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend import compiler
from firstlight.targets.ascend.build import Builder, build
from firstlight.targets.ascend.emit import BUDGETS, Module, emitted, source
from firstlight.targets.ascend.skus import SKUS, sku
from firstlight.targets.conform.cases import all_cases
from firstlight.targets.conform.units import units

CHIP = "Ascend950PR_9589"
needs_compiler = pytest.mark.skipif(compiler.compiler() is None, reason=(
    f"not here: bishengir-compile-a5; pip install {compiler.PACKAGE}"))


def kernels(*ops: str, most: int | None = None) -> list[Kernel]:
    """Kernels of the conformance kit's cases: of each op the first `most`."""
    found: dict[str, dict[str, Kernel]] = {}
    for unit in units(targets.find("ascend-950pr"), all_cases(ops)):
        if most is None or len(found.get(unit.op, ())) < most:
            found.setdefault(unit.op, {}).update((k.name, k) for k in unit.kernels)
    return [k for some in found.values() for k in some.values()]


def test_every_op_is_emitted_and_twice_the_same():
    some = kernels(most=1)
    assert len(some) == len(all_cases())
    for kernel in some:
        first, second = source(kernel), source(kernel)
        assert first == second
        assert first.files
        assert all(text.startswith(b"module {") for text in first.files.values())
        launches = first.launch["launches"]
        assert {f"mlir/{one['entry']}.mlir" for one in launches} == set(first.files)
        for one in launches:
            text = first.files[f"mlir/{one['entry']}.mlir"].decode()
            memories = text.split("{", 2)[1].partition("%S: i32")[0].count("memref<?x")
            assert memories == len(one["args"]) - 1


def test_a_norm_is_tiles_and_a_product_runs_on_the_cube_core():
    norm = "".join(m.text for k in kernels("rms_norm")[-2:] for m in emitted(k).modules)
    assert "linalg.reduce" in norm
    assert "memref.store" not in norm
    product = emitted(kernels("linear", most=1)[0]).modules[0].text
    assert "linalg.matmul" in product
    assert 'mix_mode = "mix"' in product


def test_numbers_of_a_reduced_axis_come_through_memory():
    texts = [m.text for k in kernels("reduce_sum") for m in emitted(k).modules]
    found = [(name, text) for text in texts for name in re.findall(r"(%\d+) = hfusion.ara", text)]
    assert found
    for name, text in found:        # written to memory, and nothing else reads them
        assert len(re.findall(rf"{name}\b", text)) == 2
        assert f"materialize_in_destination {name} in writable" in text


def test_a_form_that_is_refused_is_followed_by_smaller_ones_and_then_by_vector_cores():
    kernel = kernels("linear", most=1)[0]
    asked: list[str] = []

    def accept(module, last):
        asked.append(module.text)
        return "" if len(asked) > len(BUDGETS) else "F475: too large"

    made = emitted(kernel, accept)
    assert len(asked) == len(BUDGETS) + 1
    assert len(set(asked)) > 2
    assert "linalg.matmul" in asked[0]
    assert "linalg.matmul" not in asked[-1]
    assert "linalg.reduce" in made.modules[0].text
    assert "without the cube core" in made.notes[-1]


def test_a_form_refused_for_another_reason_is_not_tried_smaller():
    asked = []

    def accept(module, last):
        asked.append(module)
        if last:
            raise ValueError("the last word")
        return "F474: no"

    with pytest.raises(ValueError, match="the last word"):
        emitted(kernels("rms_norm", most=1)[0], accept)


@pytest.mark.parametrize("chip", [f"{s.line}_{c}" for s in SKUS for c in s.chips])
def test_every_chip_has_a_series(chip):
    assert sku(chip).vector == 2 * sku(chip).cube


def test_without_the_compiler_texts_and_commands_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("firstlight.targets.ascend.build.compiler", lambda: None)
    some = {k.name: k for k in kernels("rms_norm", most=1)}
    build(CHIP, some, tmp_path)
    table = json.loads((tmp_path / "code/launch.json").read_text())
    assert table["modules"]
    assert all((tmp_path / "code" / m).is_file() for m in table["modules"])
    script = (tmp_path / "code/build.sh").read_text()
    assert "bishengir-compile-a5" in script
    assert "hivmc-a5" in script
    assert str(tmp_path) not in script
    assert compiler.PACKAGE in (tmp_path / "code/commands.txt").read_text()


@pytest.mark.chip
@needs_compiler
def test_two_kernels_are_lowered_and_linked(tmp_path):
    some = {k.name: k for k in [*kernels("rms_norm", most=1), *kernels("linear", most=1)]}
    build(CHIP, some, tmp_path)
    table = json.loads((tmp_path / "code/launch.json").read_text())
    assert set(table["kernels"]) == set(some)
    assert {"aiv", "mix"} <= set(table["chip"]["cores"].values()) | {"mix"}
    for path in table["modules"]:
        text = (tmp_path / "code" / path).read_text()
        assert "hivm" in text
        assert '"bitcode/meta_op.aiv.c310.bc"' in text
        assert "site-packages" not in text
    assert not (tmp_path / "code/commands.txt").exists()


@pytest.mark.chip
@needs_compiler
@pytest.mark.parametrize(("text", "code", "why"), [
    ("module { func.func @f(%a: i32) { return %b : i32 } }", "F474", "error: "),
    ("module {", "F474", "error: "),
])
def test_a_text_that_is_wrong_is_four_lines(text, code, why):
    with pytest.raises(FirstlightError, match=code) as caught:
        compiler.lower(text, CHIP, "f")
    assert why in caught.value.why
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.chip
@needs_compiler
def test_tiles_beyond_the_memory_are_told_apart():
    text = """module {
  func.func @f(%x: memref<?xf32>, %y: memref<?xf32>, %gx: i32, %gy: i32, %gz: i32, %px: i32,
               %py: i32, %pz: i32) attributes {global_kernel = "local"} {
    %0 = arith.constant 0 : index
    %1 = memref.reinterpret_cast %x to offset: [%0], sizes: [524288], strides: [1] :
      memref<?xf32> to memref<524288xf32, strided<[1], offset: ?>>
    %2 = memref.alloc() : memref<524288xf32>
    memref.copy %1, %2 : memref<524288xf32, strided<[1], offset: ?>> to memref<524288xf32>
    %3 = bufferization.to_tensor %2 restrict writable : memref<524288xf32>
    %4 = math.exp %3 : tensor<524288xf32>
    %5 = memref.reinterpret_cast %y to offset: [%0], sizes: [524288], strides: [1] :
      memref<?xf32> to memref<524288xf32, strided<[1], offset: ?>>
    bufferization.materialize_in_destination %4 in writable %5 :
      (tensor<524288xf32>, memref<524288xf32, strided<[1], offset: ?>>) -> ()
    return
  }
}
"""
    with pytest.raises(compiler.TooLarge, match="F475"):
        compiler.lower(text, CHIP, "f")


@needs_compiler
def test_a_function_that_does_not_exist_does_not_link():
    calls = "func.func private @vadd_of_nothing(f32)\nfunc.func private @sort_1d_int64_t(f32)"
    assert list(compiler.unlinked(calls)) == ["vadd_of_nothing"]


MATMUL_MX = """module {
  func.func @mx(%a: memref<?xLEFT>, %b: memref<?xRIGHT>, %sa: memref<?xi8>, %sb: memref<?xi8>,
                %c: memref<?xf32>, %gx: i32, %gy: i32, %gz: i32, %px: i32, %py: i32, %pz: i32)
      attributes {global_kernel = "local"} {
    %0 = arith.constant 0 : index
LOADS    %zero = arith.constant 0.0 : f32
    %empty = tensor.empty() : tensor<64x64xf32>
    %none = linalg.fill ins(%zero : f32) outs(%empty : tensor<64x64xf32>) -> tensor<64x64xf32>
    %sum = hfusion.matmul_mx {lhsFormat = LKIND : i32, rhsFormat = RKIND : i32}
      ins(%ta, %tb, %tsa, %tsb : tensor<64x128xLEFT>, tensor<128x64xRIGHT>, tensor<64x4xi8>,
          tensor<64x4xi8>) outs(%none : tensor<64x64xf32>) -> tensor<64x64xf32>
    %out = memref.reinterpret_cast %c to offset: [%0], sizes: [64, 64], strides: [64, 1] :
      memref<?xf32> to memref<64x64xf32, strided<[64, 1], offset: ?>>
    bufferization.materialize_in_destination %sum in writable %out :
      (tensor<64x64xf32>, memref<64x64xf32, strided<[64, 1], offset: ?>>) -> ()
    return
  }
}
"""
LOAD = """    %v{0} = memref.reinterpret_cast %{0} to offset: [%0], sizes: [{1}, {2}], strides:
      [{2}, 1] : memref<?x{3}> to memref<{1}x{2}x{3}, strided<[{2}, 1], offset: ?>>
    %m{0} = memref.alloc() : memref<{1}x{2}x{3}>
    memref.copy %v{0}, %m{0} : memref<{1}x{2}x{3}, strided<[{2}, 1], offset: ?>> to
      memref<{1}x{2}x{3}>
    %t{0} = bufferization.to_tensor %m{0} restrict writable : memref<{1}x{2}x{3}>
"""


def matmul_mx(left: str, right: str) -> str:
    """A product of MX formats: ``f8E4M3FN``, or ``i8`` for two FP4 codes."""
    shapes = (("a", 64, 128, left), ("b", 128, 64, right), ("sa", 64, 4, "i8"), ("sb", 64, 4, "i8"))
    kinds = {"i8": "3", "f8E4M3FN": "2"}
    words = {"LEFT": left, "RIGHT": right, "LOADS": "".join(LOAD.format(*s) for s in shapes),
             "LKIND": kinds[left], "RKIND": kinds[right]}
    return re.sub("LEFT|RIGHT|LOADS|LKIND|RKIND", lambda m: words[m[0]], MATMUL_MX)


@pytest.mark.chip
@needs_compiler
def test_fp4_times_fp8_is_taken_by_the_compiler_and_does_not_link():
    builder = Builder(CHIP)
    assert builder.accept(Module("mx", matmul_mx("f8E4M3FN", "f8E4M3FN"))) == ""
    mixed = Module("mx_mixed", matmul_mx("i8", "f8E4M3FN"))
    assert "F476" in builder.accept(mixed)
    with pytest.raises(FirstlightError, match="calls mmadmxL1_int8_t_to_float, which"):
        builder.accept(mixed, last=True)


@pytest.mark.chip
@pytest.mark.slow
@needs_compiler
def test_all_kernels_are_lowered_and_linked():
    some = {k.name: k for k in kernels()}
    builder = Builder(CHIP)
    made = builder.kernels(some)
    assert {m.name for one in made.values() for m in one.modules} <= set(builder.lowered)
