"""Generic kernels as BANG C: the same text twice, tiles, double buffers, two ways of products."""

import json
import re

import pytest

from firstlight import targets
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.nodes import Node, const, make, var
from firstlight.codegen.target import Target
from firstlight.targets.cambricon.build import build, together
from firstlight.targets.cambricon.chips import CHIPS, RESERVED
from firstlight.targets.cambricon.emit import source
from firstlight.targets.cambricon.legal import Legal
from firstlight.targets.cambricon.lint import broken
from firstlight.targets.cambricon.text import Nram, constant, times
from firstlight.targets.conform.cases import all_cases
from firstlight.targets.conform.units import units

MLU370, MLU590 = CHIPS


def kernels(*ops: str, most: int | None = None) -> list[Kernel]:
    """Kernels of the conformance kit's cases: of each op the first `most`."""
    found: dict[str, dict[str, Kernel]] = {}
    for unit in units(targets.find("cambricon-mlu590"), all_cases(ops)):
        if most is None or len(found.get(unit.op, ())) < most:
            found.setdefault(unit.op, {}).update((k.name, k) for k in unit.kernels)
    return [k for some in found.values() for k in some.values()]


def text(kernel: Kernel, chip=MLU590, matrix: bool = True) -> str:
    """The kernel's file."""
    return source(chip, kernel, matrix).files[f"{kernel.name}.mlu"].decode()


def chosen(**options: str) -> Target:
    """MLU590 with options."""
    target = targets.find("cambricon-mlu590")
    return target.configured({name: options.get(name, o.default)
                              for name, o in target.options.items()})


def test_every_op_is_emitted_twice_the_same_within_memory_and_rules():
    some = kernels(most=1)
    assert len(some) == len(all_cases())
    for kernel in some:
        for chip in CHIPS:
            first = source(chip, kernel)
            assert first == source(chip, kernel)
            assert first.resources["nram_bytes"] <= chip.nram - RESERVED
            assert broken(text(kernel, chip)) == []


def test_a_norm_is_vectors_and_what_it_reads_next_is_fetched_ahead():
    norm = text(kernels("rms_norm", most=1)[0])
    assert "__bang_mul" in norm
    assert "__bang_sqrt" in norm
    assert norm.index("__memcpy_async") < norm.index("__sync_io();")
    assert "1 - bank" in norm


def test_the_right_side_of_a_product_goes_the_one_way_that_is_attested():
    product = text(kernels("linear", most=1)[0])
    chain = ["__bang_reshape_filter", "NRAM2WRAM", "__bang_matmul"]
    assert [product.index(word) for word in chain] == sorted(product.index(w) for w in chain)
    assert "_wram +" not in product


def test_products_can_do_without_the_matrix_unit():
    target = targets.find("cambricon-mlu590")
    vector = chosen(matmul="vector")
    kernel = kernels("linear", most=1)[0]
    with_, without = (t.emit(kernel) for t in (target, vector))
    assert b"__bang_matmul" in with_.files[f"{kernel.name}.mlu"]
    assert b"wram" not in without.files[f"{kernel.name}.mlu"]
    assert without.resources["wram_bytes"] == 0


def test_a_chip_without_division_gets_none():
    (kernel,) = kernels("div", most=1)
    assert "__bang_div" in text(kernel)
    assert "__bang_div" not in text(kernel, MLU370)
    assert "__bang_recip" in text(kernel, MLU370)


def test_exp_is_a_power_of_two_and_top_k_rounds_of_argmax():
    exp = text(kernels("exp")[-1])
    assert "__bang_pow2" in exp
    assert "active" not in exp
    assert "__bang_argmax" in text(kernels("top_k", most=1)[0])


def test_codes_are_decoded_by_tables_made_once():
    expert = text(next(k for k in kernels("expert_linear") if "uint8_t *w_scales" in text(k)))
    tables, rounds = expert.split("// expert_linear")
    assert "_tables[" in tables
    assert "__bang_lut" not in tables
    assert re.findall(r"__bang_lut\(.*_tables \+ \d+\), \d+, 256\);", rounds)
    assert "__bang_sll" not in rounds
    integers = text(next(k for k in kernels("expert_linear") if "uint16_t *w_scales" in text(k)))
    assert "__bang_lut" not in integers         # two instructions need no table


def test_rows_are_repeated_by_doubling_what_is_there():
    norm = text(kernels("rms_norm", most=1)[0])
    assert re.search(r"__bang_move\((t\d+) \+ .*, \1, ", norm), norm
    assert not re.search(r"for .*\n *__bang_write_value", norm)


def test_tasks_that_never_meet_are_block_tasks():
    (add, *_), (norm, *_) = kernels("add", most=1), kernels("rms_norm", most=1)
    wide = chosen(clusters="2")
    assert source(MLU590, add).launch["type"] == "block"
    assert source(MLU590, norm).launch["type"] == "union1"
    assert (wide.emit(norm).launch["type"], wide.emit(norm).launch["dim"]) == ("union2", [8, 1, 1])
    assert wide.emit(add).launch["dim"] == [8, 1, 1]
    assert b"cnrtFuncTypeUnion2" in wide.emit(norm).files[f"{norm.name}.mlu"]


def test_a_cluster_fetches_once_what_its_cores_share():
    kernel = next(k for k in kernels("linear") if "_sram[" in text(k))
    shared, apart = text(kernel), chosen(staging="none").emit(kernel)
    memory_core, cores = shared.split("        return;\n    }\n", 1)
    assert "GDRAM2SRAM" in memory_core
    assert "__sync_cluster();" in memory_core
    assert "GDRAM2SRAM" not in cores
    assert "SRAM2NRAM" in cores
    assert source(MLU590, kernel).launch["type"] == "union1"
    assert apart.launch["type"] == "block"
    assert b"SRAM" not in apart.files[f"{kernel.name}.mlu"]


def test_kernels_that_are_built_together_share_their_arrays():
    made = {k.name: text(k) for k in kernels("expert_linear")}
    whole = together(made)
    declared = re.findall(r"^__nram__ uint8_t (\w+)\[(\d+)\];$", whole, re.M)
    assert [name for name, _ in declared] == ["firstlight_nram"]
    sizes = [sum(int(n) for n in re.findall(r"^__nram__ .*\[(\d+)\];$", t, re.M))
             for t in made.values()]
    assert int(declared[0][1]) == max(sizes)
    assert re.search(r"#define \w+_tables \(firstlight_nram \+ \d+\)", whole)
    assert all(t.count("#ifndef FIRSTLIGHT_TOGETHER") == 1 for t in made.values())


def test_the_owner_of_a_card_gets_commands_and_a_launch_table(tmp_path):
    some = {k.name: k for k in kernels("add", "linear", most=1)}
    target = targets.find("cambricon-mlu370")
    target.build(some, tmp_path, None)
    code = tmp_path / "code"
    script = (code / "build.sh").read_text()
    assert "--bang-fatbin-only" in script
    assert str(tmp_path) not in script
    table = json.loads((code / "launch.json").read_text())
    assert table["modules"] == ["kernels.mlu"]
    assert [r["launches"][0]["group"] for r in table["kernels"].values()] == [[1], [4]]
    for name, record in table["kernels"].items():
        kernel = (code / f"{name}.mlu").read_text()
        head = re.search(rf"__mlu_global__ void {name}\((.*)\)", kernel)
        assert head[1].count("*") == record["pointers"] + 1
        assert f'extern "C" void {name}_launch(cnrtQueue_t queue, ' in kernel
    assert (code / "commands.txt").read_text().count("cncc ") == len(some)
    assert callable(build)


@pytest.mark.parametrize(("value", "dtype", "want"), [
    (1.0, "float32", "1.0f"), (1e-30, "float32", "1e-30f"), (3, "int32", "3"),
    (float("-inf"), "float32", "fl_as_float32(0xff800000u)"), (-(2**31), "int32",
                                                               "(-2147483647 - 1)"),
    (2**32 - 1, "uint32", "4294967295u")])
def test_literals(value, dtype, want):
    assert constant(value, dtype) == want


def test_places_in_nram_are_given_back():
    nram = Nram()
    first, second = nram.take(100), nram.take(64)
    assert (first.offset, second.offset, nram.most) == (0, 128, 192)
    nram.give(first)
    assert nram.take(128).offset == 0
    assert nram.take(1).offset == 192
    assert times(2, "a + 1", 3) == "6 * (a + 1)"


def evaluate(node: Node, at: dict[str, int]) -> float | int:
    """A node's value, in Python's arithmetic."""
    if node.op in ("const",):
        return node.args[0]
    if node.op == "var":
        return at[node.args[0]]
    a, *rest = (evaluate(n, at) for n in node.args)
    if node.op == "cast":
        return int(a) if node.dtype == "int32" else float(a)
    if node.op == "floor":
        return float(a // 1)
    if node.op == "select":
        return rest[0] if a else rest[1]
    (b,) = rest
    return {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "and": lambda: a & b,
            "shr": lambda: a >> b, "shl": lambda: a << b, "lt": lambda: a < b,
            "ge": lambda: a >= b, "ne": lambda: a != b}[node.op]()


@pytest.mark.parametrize("divisor", [3, 7, 8, 1000])
@pytest.mark.parametrize("op", ["floordiv", "mod"])
def test_quotients_are_right_for_any_int32(op, divisor):
    legal = Legal(frozenset({"x"}), True, {})
    node = legal.node(make(op, "int32", var("x"), const(divisor)))
    for x in (0, 1, -1, divisor, -divisor, 2**31 - 1, -(2**31), 123456789, -987654321):
        want = x // divisor if op == "floordiv" else x % divisor
        assert evaluate(node, {"x": x}) == want
