"""The trained example on the fake: every call is accepted, and the tokens are the right ones.

What the fake is asked to launch is done by another target, from the same launches: addresses,
arguments, order, graphs and waits are the launcher's own.
"""

import ctypes
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from firstlight import targets
from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.model import Model
from firstlight.targets.cuda import CAPABILITIES, toolchain
from support.fake_libcuda import Executor, Fake
from support.simt import needs_opencl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The artifact for compute capability 9.0, and its launches as OpenCL text."""
    if not isinstance(toolchain.compiler(), toolchain.Nvrtc):
        pytest.skip("needs NVRTC: pip install 'firstlight[cuda]'")
    folder = tmp_path_factory.mktemp("model")
    target = targets.find("cuda-sm90")

    def build(kernels, out, jobs):
        from firstlight.codegen.simt import scheduled
        from firstlight.targets.opencl.source import write

        (folder / "text").mkdir()
        write([scheduled(kernels[name], CAPABILITIES) for name in sorted(kernels)], folder / "text")
        return target.build(kernels, out, jobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "find", lambda name: dataclasses.replace(target, build=build))
        compile_checkpoint(tiny_checkpoint, folder / "artifact",
                           CompileOptions(target=target.name, context=256, chunk=16))
    return folder / "artifact", folder / "text/code/kernels.cl"


@pytest.fixture
def model(machine: Fake, compiled: tuple[Path, Path]) -> Iterator[Model]:
    """The artifact, loaded."""
    with load(compiled[0]) as loaded:
        yield loaded


def by_opencl(machine: Fake, text: str) -> Callable[..., None]:
    """Runs a kernel on the fake's memory, which is the host's."""
    needs_opencl()
    cl = pytest.importorskip("pyopencl")
    context = cl.create_some_context(interactive=False)
    queue = cl.CommandQueue(context)
    program = cl.Program(context, text).build(["-cl-std=CL1.2"])
    kernels = {k.function_name: k for k in program.all_kernels()}
    buffers: dict[int, object] = {}

    def pointer(value: int) -> list[object]:
        first, size = ctypes.c_ulonglong(), ctypes.c_size_t()
        assert machine.fake_block(ctypes.c_ulonglong(value), ctypes.byref(first),
                                  ctypes.byref(size))
        if first.value not in buffers:
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * size.value).from_address(first.value))
            buffers[first.value] = cl.Buffer(
                context, cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR, hostbuf=memory)
        return [buffers[first.value], np.uint64(value - first.value)]

    def execute(name: bytes, grid, group, parameters: int, nbytes: int) -> None:
        kernel = kernels[name.decode()]
        raw = ctypes.string_at(parameters, nbytes)
        words = np.frombuffer(raw[:nbytes // 8 * 8], np.uint64).tolist()
        args = [a for word in words for a in pointer(word)]
        if nbytes % 8:                            # S comes last
            args.append(np.frombuffer(raw[-4:], np.int32)[0])
        kernel.set_args(*args)
        size = [grid[i] * group[i] for i in range(3)]
        cl.enqueue_nd_range_kernel(queue, kernel, size, [group[i] for i in range(3)])
        queue.finish()

    return execute


def test_the_trained_example_gives_its_tokens(machine: Fake, compiled, model: Model,
                                              tiny_folder: Path) -> None:
    failures: list[Exception] = []
    execute = by_opencl(machine, compiled[1].read_text())

    @Executor
    def run(*arguments) -> None:
        try:
            execute(*arguments)
        except Exception as error:                # nobody would see it
            failures.append(error)

    machine.fake_set_executor(run)
    prompt = json.loads((tiny_folder / "expected.json").read_text())["prompts"][0]
    session, count = model.session(), 4
    tokens = list(session.generate(prompt["prompt_ids"], max_new_tokens=count, ignore_eos=True))
    fork = session.fork()
    after = session.decode(tokens[-1]), fork.decode(tokens[-1])
    machine.fake_set_executor(None)
    assert failures == []
    assert tokens == prompt["greedy_ids"][:count]
    assert (after[0] == after[1]).all()


def test_a_token_is_one_graph_and_one_wait(machine: Fake, model: Model) -> None:
    session = model.session()
    session.prefill([1, 2, 3])
    names = ("cuGraphLaunch", "cuStreamSynchronize", "cuMemcpyDtoHAsync_v2", "cuLaunchKernel",
             "cuMemAlloc_v2", "cuGraphInstantiateWithFlags")
    session.decode(4)                             # makes the graph
    before = {name: machine.count(name) for name in names}
    kernels = machine.count("kernels")
    for token in range(10):
        session.decode(token)
    made = {name: machine.count(name) - before[name] for name in names}
    assert made == {"cuGraphLaunch": 10, "cuStreamSynchronize": 10, "cuMemcpyDtoHAsync_v2": 10,
                    "cuLaunchKernel": 0, "cuMemAlloc_v2": 0, "cuGraphInstantiateWithFlags": 0}
    assert (machine.count("kernels") - kernels) % 10 == 0
    assert machine.count("kernels") > kernels


def test_weights_stay_packed_in_memory(machine: Fake, compiled, model: Model) -> None:
    """What the device holds is what the files hold: FP4 and FP8 as the bytes that they are."""
    stored = sum(f.bytes for f in model.manifest.files if f.name.startswith("weights/"))
    held = sum(w.memory.nbytes for w in model.engine.weights)
    assert held < 1.02 * stored + 64 * len(model.engine.weights)


def test_a_launch_table_that_disagrees_with_the_cubins(machine: Fake, model: Model) -> None:
    name = model.program.kernels[int(model.program.entries["prefill"].kernel[0])]
    kernel = model.engine.table.kernels[name]
    (launch, *_) = kernel.launches
    longer = dataclasses.replace(launch, args=(*launch.args, 0))
    model.engine.table.kernels[name] = dataclasses.replace(kernel, launches=(longer,))
    with pytest.raises(FirstlightError) as caught:
        model.session().prefill([1, 2])
    assert caught.value.code == "F611"
    assert "launch.json gives" in caught.value.why


def test_a_session_is_saved_and_restored(machine: Fake, model: Model, tmp_path: Path) -> None:
    session = model.session()
    session.prefill([1, 2, 3, 4, 5])
    session.save(tmp_path / "session")
    assert model.restore(tmp_path / "session").position == 5


def test_without_a_gpu_it_is_said(compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_LIBCUDA", "/nowhere/libcuda.so.1")
    with pytest.raises(FirstlightError, match="F516"):
        load(compiled[0])
