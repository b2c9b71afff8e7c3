"""The hazard checker: clean on kernels as the compiler leaves them, not with a flag less."""

import json
from pathlib import Path

import pytest

from firstlight import targets
from firstlight.targets.ascend.compiler import lower
from firstlight.targets.ascend.emit import emitted
from firstlight.targets.ascend.emulator import CHIP
from firstlight.targets.ascend.emulator_build import lacking
from firstlight.targets.ascend.hazards import check
from firstlight.targets.ascend.hazards_faults import seeded, summary
from firstlight.targets.conform.cases import all_cases
from firstlight.targets.conform.units import units
from support.ascend_kernels import CASES

LOWERED = Path(__file__).with_name("lowered")
KERNELS = {path.stem: path.read_text() for path in sorted(LOWERED.glob("*.mlir"))}
REPORT = Path(__file__).parents[3] / "docs" / "conformance" / "ascend" / "hazards.json"


@pytest.mark.parametrize("name", KERNELS)
def test_what_the_compiler_planned_is_clean(name):
    assert check(KERNELS[name]) == []


@pytest.mark.parametrize("name", KERNELS)
def test_every_fault_that_loses_an_order_between_shared_bytes_is_caught(name):
    faults = seeded(KERNELS[name])
    changing = [f for f in faults if f.changes and "barrier" not in f.text]
    assert changing
    assert all(f.caught for f in changing)
    # a set or wait less is always caught: the flag is awaited for ever, or left set
    assert all(f.caught for f in faults if f.how == "single" and "barrier" not in f.text)


def test_the_published_report_is_what_the_checker_finds():
    found = summary(KERNELS)
    assert json.loads(REPORT.read_text()) == found
    assert found["total"]["false_alarms"] == 0
    for how in ("single", "pair"):
        figures = found["total"][how]
        assert figures["caught_of_those_that_change_order"] >= 0.9 * figures["change_order"] > 0


def kernel(*lines: str) -> str:
    """A vector kernel: %x, %y in memory, %a, %b, %c of 256 bytes in UB, %c at %b's second half."""
    gm = "memref<?xf32, #hivm.address_space<gm>>"
    ub, some = "memref<64xf32, #hivm.address_space<ub>>", "memref<64xf32, strided<[1], offset: ?>"
    views = [f"    %{name} = memref.reinterpret_cast %{name}0 to offset: [0], sizes: [64], "
             f"strides: [1] : {gm} to {some}, #hivm.address_space<gm>>" for name in "xy"]
    pieces = [f"    %{name} = hivm.hir.pointer_cast(%o{name}) : {ub}" for name in "abc"]
    offsets = [f"    %o{name} = arith.constant {at} : i64"
               for name, at in (("a", 0), ("b", 256), ("c", 384))]
    return "\n".join([
        "module {", f"  func.func @double(%p: {ub}, %q: {ub}) attributes {{hivm.vector_function}} "
        "{", "    %i = arith.constant 0 : index", "    %z = arith.constant 0.0 : f32",
        f"    %0 = vector.transfer_read %p[%i], %z : {ub}, vector<64xf32>",
        f"    vector.transfer_write %0, %q[%i] : vector<64xf32>, {ub}", "    return", "  }",
        f"  func.func @k(%x0: {gm}, %y0: {gm}, %gx: i32, %gy: i32, %gz: i32) attributes "
        "{hacc.entry, hivm.func_core_type = #hivm.func_core_type<AIV>} {", *views, *offsets,
        *pieces, *[f"    {line}" for line in lines], "    return", "  }", "}", ""])


GM, UB = "memref<64xf32, strided<[1], offset: ?>, #hivm.address_space<gm>>", (
    "memref<64xf32, #hivm.address_space<ub>>")


def load(target: str) -> str:
    return f"hivm.hir.load ins(%x : {GM}) outs({target} : {UB})"


def store(source: str) -> str:
    return f"hivm.hir.store ins({source} : {UB}) outs(%y : {GM})"


def double(source: str, target: str) -> str:
    return f"func.call @double({source}, {target}) : ({UB}, {UB}) -> ()"


def flag(what: str, first: str, second: str, number: int | str = 0) -> str:
    event = f"<EVENT_ID{number}>" if isinstance(number, int) else number
    return f"hivm.hir.{what}_flag[<PIPE_{first}>, <PIPE_{second}>, {event}]"


def both(first: str, second: str) -> list[str]:
    return [flag("set", first, second), flag("wait", first, second)]


def told(*lines: str) -> list[str]:
    return [finding.what for finding in check(kernel(*lines))]


def test_a_whole_kernel_in_order():
    assert told(load("%a"), *both("MTE2", "V"), double("%a", "%b"), *both("V", "MTE3"),
                store("%b")) == []


def test_a_read_that_does_not_wait_for_its_data():
    assert told(load("%a"), double("%a", "%b"), *both("V", "MTE3"), store("%b")) == [
        "MTE2 and V, in no order: memory that is written and read, in UB0"]


def test_a_flag_from_another_pipe_is_no_order():
    assert told(load("%a"), *both("MTE2", "MTE3"), double("%a", "%b"), *both("V", "MTE3"),
                store("%b")) == [
        "MTE2 and V, in no order: memory that is written and read, in UB0"]


def test_order_goes_on_from_pipe_to_pipe():
    """MTE2 before V before MTE3, so the load is before the store."""
    assert told(load("%a"), *both("MTE2", "V"), double("%b", "%b"), *both("V", "MTE3"),
                store("%a")) == []


def test_a_partial_overlap_counts_and_neighbours_do_not():
    assert told(load("%c"), double("%a", "%a")) == []
    assert told(load("%c"), double("%a", "%b")) == [
        "MTE2 and V, in no order: memory that both write, in UB0"]


def test_transfers_of_one_pipe_overtake_each_other():
    assert told(load("%a"), load("%a")) == [
        "MTE2 and MTE2, in no order: memory that both write, in UB0"]
    assert told(load("%a"), "hivm.hir.pipe_barrier[<PIPE_MTE2>]", load("%a")) == []
    assert told(load("%a"), "hivm.hir.pipe_barrier[<PIPE_V>]", load("%a")) != []


def test_the_next_iteration_must_not_overwrite_what_is_still_read():
    loop = ["%l = arith.constant 0 : index", "%h = arith.constant 9 : index",
            "%s = arith.constant 1 : index", "scf.for %i = %l to %h step %s {"]
    body = [load("%a"), *both("MTE2", "V"), double("%a", "%b"), *both("V", "MTE3"), store("%b")]
    found = told(*loop, *body, "}")
    assert "V and MTE2, in no order: memory that is read and written, in UB0" in found
    assert "MTE3 and V, in no order: memory that is read and written, in UB0" in found
    back = [flag("set", "V", "MTE2"), flag("set", "MTE3", "V"), flag("set", "MTE3", "MTE3", 1)]
    inside = [flag("wait", "V", "MTE2"), body[0], *body[1:3], flag("wait", "MTE3", "V"), body[3],
              flag("set", "V", "MTE2"), *body[4:6], "hivm.hir.pipe_barrier[<PIPE_MTE3>]", body[6],
              flag("set", "MTE3", "V")]
    end = [flag("wait", "V", "MTE2"), flag("wait", "MTE3", "V")]
    assert told(*back[:2], *loop, *inside, "}", *end) == []


def test_flags_that_do_not_come_in_pairs():
    assert told(flag("set", "V", "MTE3")) == ["flag 0 from V to MTE3 is left set"]
    assert told(flag("wait", "V", "MTE3")) == [
        "nothing sets flag 0 from V to MTE3 before it is awaited"]
    assert told(flag("set", "V", "S"), *both("V", "S"), flag("wait", "V", "S")) == [
        "flag 0 from V to S is set while it is set"]


def test_a_branch_on_an_unknown_number_is_walked_both_ways():
    unknown = ["%j = arith.constant 0 : index", "%n = memref.load %y0[%j] : memref<?xf32, "
               "#hivm.address_space<gm>>", "%u = arith.cmpi eq, %n, %n : f32", "scf.if %u {"]
    assert told(load("%a"), *unknown, *both("MTE2", "V"), "}", double("%a", "%b")) != []
    assert told(load("%a"), *unknown, *both("MTE2", "V"), "} else {", *both("MTE2", "V"), "}",
                double("%a", "%b")) == []


def test_a_flag_whose_number_is_counted():
    """Two buffers in rotation: the number of the flag comes from the loop's counter."""
    lines = ["%l = arith.constant 0 : index", "%h = arith.constant 4 : index",
             "%s = arith.constant 1 : index", "%two = arith.constant 2 : index",
             flag("set", "V", "MTE2", 0), flag("set", "V", "MTE2", 1),
             "scf.for %i = %l to %h step %s {", "%m = arith.remui %i, %two : index",
             "%n = arith.index_cast %m : index to i64", "%e = arith.cmpi eq, %n, %oa : i64",
             f"%t = arith.select %e, %a, %b : {UB}", flag("wait", "V", "MTE2", "%n"), load("%t"),
             *both("MTE2", "V"), double("%t", "%t"), flag("set", "V", "MTE2", "%n"), "}",
             flag("wait", "V", "MTE2", 0), flag("wait", "V", "MTE2", 1)]
    assert told(*lines) == []
    wrong = [line.replace("wait_flag[<PIPE_V>, <PIPE_MTE2>, %n]",
                          "wait_flag[<PIPE_V>, <PIPE_MTE2>, <EVENT_ID0>]") for line in lines]
    assert told(*wrong) != []


@pytest.mark.chip
@pytest.mark.skipif("bishengir-compile-a5" in lacking(), reason="not here: bishengir-compile-a5; "
                    "pip install 'firstlight[ascend]'")
@pytest.mark.parametrize("name", CASES)
def test_what_the_compiler_plans_now_is_clean(name):
    lowered = lower(CASES[name].text, CHIP, name).snapshot
    assert check(lowered) == []
    assert name not in KERNELS or lowered == KERNELS[name]


@pytest.mark.slow
@pytest.mark.chip
@pytest.mark.skipif("bishengir-compile-a5" in lacking(), reason="not here: bishengir-compile-a5; "
                    "pip install 'firstlight[ascend]'")
def test_emitted_kernels_of_every_kind_are_clean_and_miss_their_flags():
    """What the emitter writes, as the compiler plans it: the longest module of each kind."""
    kinds: dict[str, tuple[str, str]] = {}
    for unit in units(targets.find("ascend-950pr"), all_cases(())):
        for kernel in unit.kernels:
            for module in emitted(kernel).modules:
                kind = module.name.rpartition("_")[0]
                kinds[kind] = max(kinds.get(kind, ("", "")), (module.text, module.name),
                                  key=lambda pair: len(pair[0]))
    assert len(kinds) > 30
    snapshots = [lower(text, CHIP, name).snapshot for text, name in kinds.values()]
    assert [finding.what for text in snapshots for finding in check(text)] == []
    faults = [f for text in snapshots for f in seeded(text)]
    changing = [f for f in faults if f.changes]
    caught = sum(f.caught for f in changing)
    print(f"{len(kinds)} modules, {len(faults)} faults, {len(changing)} change order, {caught} of "
          "them caught")
    assert caught >= 0.9 * len(changing) > 50
