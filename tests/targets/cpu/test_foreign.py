"""CPUs of other architectures: their code is made here, refused here, and right under qemu."""

import json
import mmap
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.codegen.compile import CompileOptions, plans, prepare
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.select import KernelSet
from firstlight.codegen.target import Target
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.compiler import compile_checkpoint
from firstlight.frontend.checkpoint import Checkpoint, read_checkpoint
from firstlight.frontend.model import trace_model, weight_types
from firstlight.ir import dims
from firstlight.ir.dims import B, S
from firstlight.ir.interpreter import Interpreter
from firstlight.ir.types import GROUP_FP4, GROUP_INT4, StateType, TensorType
from firstlight.passes.plan_memory import Place, Step
from firstlight.runtime import FirstlightError, load
from firstlight.targets import find
from firstlight.targets.conform.cases import Case
from firstlight.targets.cpu import emulator
from firstlight.targets.cpu.kernels.vecmath import flat, put
from support.errors import error
from support.kernel_call import aligned

ARCHITECTURES = {"cpu-aarch64": "aarch64", "cpu-riscv64": "riscv64"}
GENERATED = 12
"""Tokens of the end-to-end test: qemu needs a second for one with RISC-V's vectors."""
TOKENS, CONTEXT = 3, 64
TOLERANCE = 4e-6
DTYPES = {"f32": np.float32, "i32": np.int32, "bool": np.bool_}
each_target = pytest.mark.parametrize("name", ARCHITECTURES)


def needs_qemu(name: str) -> list[str]:
    """The emulator's command; skips where there is none."""
    command = emulator.qemu(ARCHITECTURES[name])
    if command is None:
        pytest.skip(f"qemu-{ARCHITECTURES[name]} is not installed (make chip-tools)")
    return command


@pytest.mark.slow
@pytest.mark.chip
@each_target
def test_the_example_under_qemu(name: str, tiny_folder: Path, tmp_path: Path):
    """Compiled here, refused here, and its firstlight-run says what transformers said."""
    artifact = tmp_path / "artifact"
    options = CompileOptions(target=name, context=256, runner=True)
    compile_checkpoint(tiny_folder / "checkpoint", artifact, options)
    with pytest.raises(FirstlightError, match="F510"):
        load(artifact)
    expected = json.loads((tiny_folder / "expected.json").read_text())["prompts"][1]
    command = [*needs_qemu(name), str(artifact / "firstlight-run"), str(artifact), "--tokens",
               ",".join(map(str, expected["prompt_ids"])), "-n", str(GENERATED), "--ignore-eos"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ",".join(map(str, expected["greedy_ids"][:GENERATED])) + "\n"


@pytest.mark.slow
@pytest.mark.chip
@pytest.mark.parametrize("generic", [True, False], ids=["generic", "default"])
@each_target
def test_every_kernel_of_the_example_under_qemu(name: str, generic: bool, tiny_folder: Path,
                                                tmp_path: Path):
    """Each kernel of prefill and decode once, with the example's own weights, against numpy."""
    needs_qemu(name)
    target, source = find(name), read_checkpoint(tiny_folder / "checkpoint")
    module = trace_model(source.config, weight_types(source))
    job = prepare(module, CONTEXT, target, CompileOptions(target=name, chunk=TOKENS))
    kernels = KernelSet(target, generic)
    units = [(Unit(kernels, module, entry.tokens, source), step)
             for entry, module, plan, _, _ in plans(job, kernels) for step in plan.steps]
    symbols = {unit.symbol(step): (unit, step) for unit, step in units}
    executor = target.emulate(kernels.kernels, tmp_path)
    assert executor is not None
    random = np.random.default_rng(7)
    for symbol, (unit, step) in sorted(symbols.items()):
        got, want = unit.run(executor, symbol, step, random)
        assert error(got, want) <= TOLERANCE, symbol
    executor.close()
    assert len(symbols) == len(kernels.kernels) > 30


class Unit:
    """The kernels of one entry, and what their operands look like."""

    def __init__(self, kernels: KernelSet, module, tokens: int, source: Checkpoint) -> None:
        self.kernels, self.module, self.tokens, self.source = kernels, module, tokens, source
        self.sizes = {"B": 1, "S": tokens, "C": CONTEXT}

    def symbol(self, step: Step) -> str:
        """Makes the kernel, too."""
        return self.kernels.kernel(step.op, self.module, self.tokens).name

    def run(self, executor, symbol: str, step: Step, random: np.random.Generator):
        """(results of the kernel, results of the reference)."""
        layouts = self.kernels.kernels[symbol].layouts
        args, pointers, states = [], [], []
        for place, value, layout in zip(step.operands, step.op.operands, layouts, strict=True):
            if place.kind == "weight":
                args.append(self.source.tensors[place.name].decode().reshape(value.type.shape))
                pointers += self._stored(place, value.type, layout)
            else:
                args.append(self._array(value, random))
                pointers.append(args[-1].copy())
                states += [pointers[-1]] if isinstance(value.type, StateType) else []
        want = Interpreter(self.module, self.sizes).op(step.op, [a.copy() for a in args])
        want = [np.asarray(w) for w in want]
        out = [states.pop(0) if isinstance(v.type, StateType)
               else np.full(w.shape, 77, DTYPES[v.type.dtype])
               for v, w in zip(step.op.results, want, strict=True)]
        fresh = [o for o, v in zip(out, step.op.results, strict=True)
                 if not isinstance(v.type, StateType)]
        executor.run(symbol, [*pointers, *fresh], self.tokens)
        return out, want

    def _array(self, value, random: np.random.Generator) -> np.ndarray:
        if isinstance(value.type, StateType):
            rows = dims.evaluate(value.type.capacity, self.sizes)
            return random.standard_normal((1, rows, value.type.width)).astype(np.float32)
        shape = tuple(dims.evaluate(d, self.sizes) for d in value.type.shape)
        if value.type.dtype == "f32":
            return random.standard_normal(shape).astype(np.float32)
        if shape == (1,):                       # pos, slot, last
            return np.zeros(shape, np.int32)
        return random.integers(0, 4, shape).astype(DTYPES[value.type.dtype])

    def _stored(self, place: Place, type_, layout: str | None) -> list[np.ndarray]:
        ref = self.source.tensors[place.name]
        codes, scales = ref.codes(), ref.scales()
        if layout:
            assert self.kernels.target.packer is not None
            codes, scales = self.kernels.target.packer.pack(layout, codes, scales, type_.codec,
                                                            type_.shape)
        return [np.ascontiguousarray(a) for a in (codes, scales) if a is not None]


def test_without_qemu_nothing_is_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emulator.shutil, "which", lambda name: None)
    for name, arch in ARCHITECTURES.items():
        target: Target = find(name)
        assert target.emulate({}, tmp_path) is None
        (found,) = [tool for tool in target.tools() if tool.name == f"qemu-{arch}"]
        assert found.found is None
        assert "make chip-tools" in found.get


@pytest.mark.chip
@each_target
def test_an_array_that_is_given_twice_is_one_memory(name: str, tmp_path: Path):
    def body(x: Any, y: Any, tokens: Any) -> None:
        put(flat(y), T.float32(0), 0)
        put(flat(y), flat(x)[0] + T.float32(1), 1)

    needs_qemu(name)
    kernel = Kernel("k", prim_func("k", [("x", "float32"), ("y", "float32")], body), (None,))
    executor = find(name).emulate({"k": kernel}, tmp_path)
    assert executor is not None
    array = aligned(np.full(2, 5, np.float32))
    executor.run("k", [array, array[:]], 1)
    assert array.tolist() == [0, 1]


@each_target
def test_what_an_instruction_of_x86_decodes_is_left_to_generic_kernels(name: str):
    """Weights of four bits have no hand-written kernel here, bf16 weights do."""
    overrides = find(name).overrides()
    for codec, made in ((GROUP_FP4, False), (GROUP_INT4, False), ("bf16", True)):
        types = (TensorType((B, S, 64), "f32"), TensorType((16, 64), "f32", codec))
        (op,) = Case("linear", types).module({"B": 1})["main"].ops
        assert (overrides["linear"]("one", op, 4) is not None) == made


def test_only_what_cannot_change_is_kept_by_the_emulator(tmp_path: Path):
    """A file mapped for reading is; a view that is merely not writable is not."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(64))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE)
    plain = np.zeros(8, np.float32)
    view = plain[2:]
    view.flags.writeable = False
    assert emulator.unchanging(np.frombuffer(mapped, np.uint8, 32, 16).view(np.float32))
    assert not emulator.unchanging(np.frombuffer(shared, np.uint8))
    assert not emulator.unchanging(plain)
    assert not emulator.unchanging(view)
