"""From plans to argument words: pointers of every kind, weights stored once for each layout."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.program import ProgramWriter, Stored
from firstlight.codegen.select import KernelSet
from firstlight.codegen.target import Source, Target
from firstlight.ir.array import Array, constant
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module, Op
from firstlight.ir.dims import B, S
from firstlight.ir.types import BLOCK_FP8, TensorType
from firstlight.passes.capabilities import Capabilities
from firstlight.passes.plan_memory import Plan, PlanMemory
from support.modules import composite

MATRIX = TensorType((128, 128), "f32", BLOCK_FP8)
X = TensorType((B, S, 128))
TOKENS = 4


class Tiles:
    """A packer whose layout pads a weight to whole tiles of 64 KiB."""

    def shapes(self, layout, codec, shape):
        return ((1, 65536), "uint8"), ((3,), "uint16")


class Kernels:
    """Stands for a KernelSet: the n-th op asks for the n-th layout of its weights."""

    def __init__(self, *layouts: str | None) -> None:
        self.target = SimpleNamespace(packer=Tiles())
        self.layouts = list(layouts)
        self.asked: list[str] = []

    def kernel(self, op: Op, module: Module, tokens: int) -> Kernel:
        layout = self.layouts[len(self.asked)] if self.layouts else None
        self.asked.append(op.name)
        return Kernel(op.name, None, (layout,) * len(op.operands))


def planned(module: Module, entry: str, **inputs: int) -> Plan:
    sizes = {"B": 1, "S": TOKENS, "C": 32}
    return PlanMemory(sizes).plan(module, entry, inputs, output=8192, base=16384)


def writer(kernels: Kernels, module: Module, entry: str = "main",
           states: dict[str, int] | None = None, **inputs: int) -> ProgramWriter:  # fmt: skip
    program = ProgramWriter(kernels, states or {})
    program.add("prefill", planned(module, entry, **inputs), module, TOKENS, inputs, 8192, False,
                vocab=99)  # fmt: skip
    return program


def words(program: ProgramWriter) -> list[list[str]]:
    return [step[1] for step in program.document()["entries"]["prefill"]["steps"]]


def chain(names: Sequence[str]) -> Module:
    """y = .. linear(linear(x, first), second) .., fp8 weights."""
    builder = Builder("main")
    x = builder.arg(X, "x")
    weights = {name: builder.arg(MATRIX, name) for name in dict.fromkeys(names)}
    for name in names:
        (x,) = builder.emit("linear", x, weights[name]).results
    return Module({"main": builder.finish(x)})


def test_words_of_every_kind():
    """Arena, weights, states by their offsets; a state result is its operand and has no word."""
    module = composite("compress")
    inputs = {"v": 0, "g": 1024, "slot": 2048, "pos": 2112}
    (got,) = words(writer(Kernels(), module, states={"partial": 64, "entries": 640}, **inputs))
    expected = {**{n: f"a:{o}" for n, o in inputs.items()}, "ape": "w:0", "norm": "w:1",
                "freqs": "w:2", "partial": "s:64", "entries": "s:640"}  # fmt: skip
    assert got == [*(expected[arg.loc] for arg in module["main"].args), "t"]


def test_results_are_arena_pointers_after_the_operands():
    got = words(writer(Kernels(), chain("ab"), x=0))
    assert got[0][:3] == ["a:0", "w:0", "w:1"]
    assert got[0][3:] == [got[1][0], "t"]
    assert got[1][1:] == ["w:2", "w:3", "a:8192", "t"]


def test_a_signature_has_the_bytes_behind_every_word():
    program = writer(Kernels(), composite("compress"), states={"partial": 64, "entries": 640},
                     v=0, g=1024, slot=2048, pos=2112)  # fmt: skip
    (words,), (sizes,) = words_and_signatures(program)
    arguments = composite("compress")["main"].args
    assert len(words) == len(sizes) == len(arguments) + 1
    v, slot = arguments[0].type.shape, [a.loc for a in arguments].index("slot")
    assert sizes[0] == ["mul", "S", ["mul", "B", 4 * v[2]]]
    assert sizes[slot] == ["mul", "B", 4]
    assert sizes[-1] == "t"
    _, (sizes,) = words_and_signatures(writer(Kernels("tile"), chain("a"), x=0))
    assert sizes[1:3] == [65536, 6], "as the target packs it"
    _, (sizes,) = words_and_signatures(writer(Kernels(), chain("a"), x=0))
    assert sizes[1:3] == [128 * 128, 1], "codes and the scale of one block"


def words_and_signatures(program: ProgramWriter) -> tuple[list[list[str]], list[list[Any]]]:
    return words(program), program.document()["signatures"]


def test_scales_follow_their_codes():
    program = writer(Kernels(), chain("a"), x=0)
    table = program.document()["weights"]
    assert table == [["weights/global.safetensors", name] for name in ("a", "a.scales")]


def test_a_weight_under_two_layouts_is_stored_twice_and_under_one_once():
    program = writer(Kernels("tile", None, "tile"), chain("www"), x=0)
    assert sorted(program.stored) == [Stored("w"), Stored("w", "tile")]
    assert [w[1:3] for w in words(program)] == [["w:0", "w:1"], ["w:2", "w:3"], ["w:0", "w:1"]]
    assert [name for _, name in program.document()["weights"]] == [
        "w@tile", "w@tile.scales", "w", "w.scales"]  # fmt: skip


@pytest.mark.parametrize(
    ("weight", "file"),
    [("layers.12.attn.wq_a.weight", "layers.12"), ("embed.weight", "global"),
     ("constant.float32.3.0123", "global"), ("mtp.0.norm", "global")],
)  # fmt: skip
def test_one_file_for_each_layer(weight, file):
    assert Stored(weight).file == f"weights/{file}.safetensors"


def with_constants(name: str, *values: tuple[float, ...]) -> Module:
    """x + c for each c, in a function called `name`."""
    builder = Builder(name)
    x = Array(builder, builder.arg(TensorType((B, S, 3)), "x"))
    for value in values:
        x = x + constant(builder, value, (3,))
    return Module({name: builder.finish(x.value)})


def test_equal_constants_are_stored_once_in_all_entries():
    one, two = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    program = ProgramWriter(Kernels(), {})
    for entry, module in (("decode", with_constants("f", one, two)),
                          ("score", with_constants("g", two, one))):  # fmt: skip
        plan = planned(module, next(iter(module.functions)), x=0)
        program.add(entry, plan, module, TOKENS, {"x": 0}, 8192, True, vocab=3)
    assert sorted(v.tolist() for v in program.constants.values()) == [list(one), list(two)]
    document = program.document()
    assert len(document["weights"]) == len(program.stored) == 2
    used = {e: [s[1][1] for s in document["entries"][e]["steps"]] for e in ("decode", "score")}
    assert used["decode"] == used["score"][::-1]


def test_entries_say_what_they_take_and_give():
    module = chain("a")
    program = ProgramWriter(Kernels(), {})
    for name, tokens, every in (("decode", 1, True), ("prefill", 8, False), ("score", 8, True)):
        plan = planned(module, "main", x=0)
        program.add(name, plan, module, tokens, {"tokens": 192, "pos": 0}, 8192, every, vocab=99)
    entries = program.document()["entries"]
    assert {n: e["max_tokens"] for n, e in entries.items()} == {
        "decode": 1, "prefill": 8, "score": 8}  # fmt: skip
    assert {n: e["outputs"]["logits"]["shape"] for n, e in entries.items()} == {
        "decode": [1, 99], "prefill": [1, 99], "score": ["S", 99]}  # fmt: skip
    assert entries["score"]["inputs"] == {
        "tokens": {"offset": 192, "shape": ["S"]}, "pos": {"offset": 0, "shape": [1]}}  # fmt: skip
    assert entries["decode"]["inputs"]["tokens"]["shape"] == [1]
    assert program.document()["kernels"] == ["linear"]
    assert program.arena_bytes % 64 == 0


# ---------------------------------------------------------------- which kernel


def target(**overrides) -> Target:
    capabilities = Capabilities(native=frozenset())
    return Target(name="toy", summary="", tier="D", capabilities=capabilities, requires={},
                  emit=lambda kernel: Source({}, "", {}, {}), build=lambda *_: [], launcher="toy",
                  overrides=lambda: overrides)  # fmt: skip


@pytest.fixture
def generic(monkeypatch):
    """The symbols of the generic kernels that were asked for; none is made."""
    module = pytest.importorskip("firstlight.codegen.generic", reason="needs the compiler")
    made = []

    def kernel(symbol: str, op: Op, module: Module) -> Kernel:
        made.append(symbol)
        return Kernel(symbol, None, ())

    monkeypatch.setattr(module, "generic_kernel", kernel)
    return made


def ops(eps: float, *locs: str) -> list[Op]:
    """rms_norm of equal types, at different places."""
    found = []
    for loc in locs:
        builder = Builder("main")
        x = builder.arg(X, loc)
        found.append(builder.emit("rms_norm", x, loc=loc, eps=eps))
    return found


def test_equal_ops_share_a_kernel_wherever_they_come_from(generic):
    kernels = KernelSet(target())
    one, two = ops(1e-6, "layers.0", "layers.7")
    assert kernels.kernel(one, Module(), 8) is kernels.kernel(two, Module(), 8)
    (other,) = ops(1e-5, "layers.0")
    kernels.kernel(other, Module(), 8)
    assert len(generic) == len(kernels.kernels) == 2
    assert kernels.native == set()


def test_an_override_goes_first_where_it_fits(generic):
    calls = []

    def sometimes(symbol: str, op: Op, tokens: int) -> Kernel | None:
        calls.append(tokens)
        return Kernel(symbol, None, ()) if op.attrs["eps"] == 1e-6 else None

    (fits,), (not_,) = ops(1e-6, "a"), ops(1e-5, "a")
    kernels = KernelSet(target(rms_norm=sometimes))
    assert kernels.kernel(fits, Module(), 8).name in kernels.native
    assert kernels.kernel(not_, Module(), 8).name in generic
    assert calls == [8, 8]
    plain = KernelSet(target(rms_norm=sometimes), generic_only=True)
    plain.kernel(fits, Module(), 8)
    assert (plain.native, len(calls)) == (set(), 2)


def test_constants_are_arrays_of_their_type():
    program = writer(Kernels(), with_constants("main", (1.0, 2.0, 3.0)), x=0)
    ((name, value),) = program.constants.items()
    assert name.startswith("constant.float32.3.")
    assert value.dtype == np.float32
