"""The acl launcher on a package `acl` that has no device behind it, and refuses mistakes."""

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from firstlight.runtime import acl, load
from firstlight.runtime.device import Call, DeviceError, Pointer
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.acl import STAGED, AclDriver
from firstlight.runtime.manifest import read_manifest
from support.fake_acl import EXCEPTION, FakeAcl, Refused, fake_object, finish
from support.fake_artifact import (
    FAIL,
    HIDDEN,
    RATIO,
    RING,
    SLEEP,
    VOCAB,
    expected_logits,
    seal,
    write_fake_artifact,
)

CHIP = "Ascend950PR_9589"
CORES = {"step": "aiv", "guard": "aiv", "head_last": "mix", "head_all": "aic"}
"""Of the toy's kernels, each in a module of its own."""
ARGS = {"step": [*range(8), "S"], "guard": [0, "S"], "head_last": [*range(4)],
        "head_all": [0, 1, 2, "S"]}


def toy(folder: Path, **changes: object) -> Path:
    """The toy as an artifact for the chip: `changes` go to a launch of its kernel `head_last`."""
    write_fake_artifact(folder, changes={"target.launcher": "acl", "target.name": "ascend-950pr",
                                         "target.requires": {"chip": CHIP, "cann": ">= 9.1"}})
    (folder / "code/lowered").mkdir()
    launches = {}
    for i, (name, args) in enumerate(ARGS.items()):
        (folder / f"code/lowered/{name}.mlir").write_text(
            f"module attributes {{hivm.module_core_type = #hivm.module_core_type<"
            f"{CORES[name].upper()}>}} {{}}\n")
        launches[name] = {"pointers": sum(a != "S" for a in args), "workspace": 64, "launches": [
            {"entry": f"{name}_1", "module": i, "grid": [["max", "S", 1]], "group": [1],
             "shared": 0, "args": args}]}
    launches["head_last"]["launches"][0] |= changes
    table = {"schema": 1, "kernels": launches, "chip": {"name": CHIP, "cores": CORES},
             "modules": [f"lowered/{name}.mlir" for name in ARGS]}
    (folder / "code/launch.json").write_text(json.dumps(table))
    program = json.loads((folder / "program.json").read_text())
    program["signatures"][2].append("t")            # every kernel of a device is given S
    for entry in program["entries"].values():
        entry["steps"] = [[k, words if words[-1] == "t" else [*words, "t"]]
                          for k, words in entry["steps"]]
    (folder / "program.json").write_text(json.dumps(program))
    seal(folder)
    finish(folder)
    return folder


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAcl]:
    """A machine with a chip, as far as a launcher can tell."""
    fake = FakeAcl()
    monkeypatch.setitem(sys.modules, "acl", fake.module)
    monkeypatch.delenv("FIRSTLIGHT_DEVICE", raising=False)
    acl.api.cache_clear()
    yield fake
    acl.api.cache_clear()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, finished."""
    return toy(tmp_path_factory.mktemp("acl") / "toy")


def in_numpy(name: str, blocks: int, memories: list[np.ndarray], numbers: list[int]) -> None:
    """What the toy's kernels do (see toy_kernels.c)."""
    def floats(i: int) -> np.ndarray:
        return memories[i][: memories[i].size // 4 * 4].view(np.float32)

    def ints(i: int) -> np.ndarray:
        return memories[i][: memories[i].size // 4 * 4].view(np.int32)

    tokens = numbers[0]
    if name == "guard_1" and FAIL in ints(0)[:tokens]:
        raise Refused(EXCEPTION, "the toy gave up")
    if name.startswith("head"):
        hidden, head = floats(0).reshape(-1, HIDDEN), floats(1)[: VOCAB * HIDDEN]
        first, rows = (ints(2)[0], 1) if name == "head_last_1" else (0, tokens)
        out = hidden[first: first + rows] @ head.reshape(VOCAB, HIDDEN).T
        out[:, SLEEP:] = -100
        floats(3 if name == "head_last_1" else 2)[: out.size] = out.ravel()
    if name == "step_1":
        table, total, ring, partial, entries, hidden = (floats(i) for i in range(2, 8))
        for s in range(tokens):
            p, v = ints(1)[0] + s, table[ints(0)[s]]
            total[0] = 0.5 * total[0] + v
            ring[p % RING * 2: p % RING * 2 + 2] = v, p
            partial[p % RATIO * 2: p % RATIO * 2 + 2] = v, 1
            if p % RATIO == RATIO - 1:
                entries[p // RATIO * 2: p // RATIO * 2 + 2] = partial.reshape(-1, 2)[:RATIO].sum(0)
            mean = sum(ring[q % RING * 2] * (1 + 0.1 * (p - q))
                       for q in range(max(0, p - RING + 1), p + 1))
            far = 0.0
            for w in range((p + 1) // RATIO):
                far = 0.9 * far + entries[2 * w] * entries[2 * w + 1]
            hidden[s * HIDDEN: (s + 1) * HIDDEN] = total[0], mean, far, 0.01 * p


IDS = [3, 7, 1, 20, 5, 9, 2]


def test_a_model_runs_through_the_launcher(machine, artifact):
    machine.executor = in_numpy
    with load(artifact) as model:
        assert model.threads == 28
        session = model.session()
        got = [session.prefill(IDS[:5]), *(session.decode(token) for token in IDS[5:])]
        np.testing.assert_allclose(got, expected_logits(IDS)[4:], rtol=1e-5, atol=1e-5)
        every = model.session().prefill(IDS, all_logits=True)
        np.testing.assert_allclose(every, expected_logits(IDS), rtol=1e-5, atol=1e-5)
        fork = session.fork()
        np.testing.assert_array_equal(fork.decode(4), session.decode(4))
    assert machine.refused == []


def test_a_token_is_its_launches_and_one_wait(machine, artifact):
    with load(artifact) as model:
        session = model.session()
        session.prefill(IDS[:3])
        session.decode(1)
        before = machine.calls.copy()
        for token in range(10):
            session.decode(token)
        made = machine.calls - before
    assert made["rt.launch_kernel_with_config"] == 30 == made["kernels"]
    assert made["rt.synchronize_stream"] == 10
    assert made["rt.memcpy_async"] == 50            # four inputs and the logits
    assert not [name for name in made if "malloc" in name or "kernel_args" in name]


def test_the_argument_block(machine, artifact):
    """Addresses, then numbers of 4 bytes: S where the kernel takes it, and the grid."""
    with load(artifact) as model:
        model.session().prefill(IDS[:3])
        weights = [w.memory.address for w in model.engine.weights]
    (step, blocks, block), _, (last, one, short) = machine.launched[:3]
    assert (step, blocks, last, one) == ("step_1", 3, "head_last_1", 3)
    assert block[16:24] == weights[0].to_bytes(8, "little")
    assert block[64:] == np.array([3, 3, 1, 1], np.int32).tobytes()
    assert short[8:16] == weights[1].to_bytes(8, "little")
    assert short[32:] == np.array([3, 1, 1], np.int32).tobytes()


def test_a_kernel_that_fails_breaks_its_session_only(machine, artifact):
    machine.executor = in_numpy
    with load(artifact) as model:
        session = model.session()
        with pytest.raises(FirstlightError, match="F611") as caught:
            session.prefill([1, FAIL])
        assert "error 507035, rt.synchronize_stream: the toy gave up" in caught.value.why
        model.session().prefill([1, 2])


def test_locks_between_blocks_are_zero_whenever_a_launch_begins(machine, tmp_path):
    """And its workspace is memory of so many bytes."""
    seen = []

    def look(name, blocks, memories, numbers):
        if name == "head_last_1":
            seen.append((memories[0][:16].tolist(), memories[1].size))
            memories[0][:16] = 7

    machine.executor = look
    folder = toy(tmp_path / "toy", args=["l", "w", 0, 1, 2, 3], locks=2)
    with load(folder) as model:
        session = model.session()
        session.prefill(IDS[:2])
        session.decode(1)
        session.decode(2)
    assert seen == [([0] * 16, 64)] * 3
    assert machine.refused == []


def test_nothing_is_left_when_it_is_closed(machine, artifact):
    model = load(artifact)
    session = model.session()
    session.prefill(IDS[:3])
    assert len(machine.left()) > 5
    model.close()
    assert machine.left() == ["no finalize"]         # which is done when the process ends
    with pytest.raises(FirstlightError):
        session.decode(1)
    del session, model
    gc.collect()
    assert machine.refused == []


def test_a_process_leaves_nothing_behind(artifact, tmp_path):
    """Not even without `close`: contexts, devices and the library are given back at the end."""
    code = ("import atexit, sys\n"
            "from support.fake_acl import FakeAcl\n"
            "fake = FakeAcl()\n"
            "fake.install()\n"
            "atexit.register(lambda: print(fake.finalized, fake.refused))\n"
            "from firstlight.runtime import load\n"
            f"session = load({str(artifact)!r}).session()\n"
            "session.prefill([1, 2])\n")
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_another_owner_of_the_process_is_left_alone(machine, artifact):
    """Somebody else has initialized the library, and has a context: both stay as they are."""
    machine.module.init()
    machine.module.rt.set_device(0)
    theirs, _ = machine.module.rt.create_context(0)
    with load(artifact) as model:
        model.session().prefill(IDS[:3])
        assert machine.module.rt.get_context() == (theirs, 0)
    assert machine.module.rt.get_context() == (theirs, 0)
    assert machine.left() == ["1 contexts", "device 0 is still set", "no finalize"]


def test_any_thread_may_use_a_session(machine, artifact):
    machine.executor = in_numpy
    with load(artifact) as model:
        session, got = model.session(), []
        thread = threading.Thread(target=lambda: got.append(session.prefill(IDS)))
        thread.start()
        thread.join()
        np.testing.assert_allclose(got[0], expected_logits(IDS)[-1], rtol=1e-5, atol=1e-5)


def test_large_and_small_copies_arrive(machine, artifact):
    driver = AclDriver(read_manifest(artifact))
    queue, rng = driver.queue(), np.random.default_rng(3)
    memory = queue.allocate(3 * STAGED)
    back = np.ones(3 * STAGED, np.uint8)
    queue.read(memory, 0, back)
    assert not back.any()
    data = rng.integers(0, 256, 3 * STAGED, np.uint8)
    queue.write(memory, 0, data)
    for at in range(0, STAGED * 2, STAGED // 8):    # more than is staged at a time
        part = rng.integers(0, 256, STAGED // 8, np.uint8)
        queue.write(memory, at, part)
        data[at: at + part.size] = part
        part[:] = 0                                 # it was copied
    queue.read(memory, 0, back)
    np.testing.assert_array_equal(back, data)
    driver.close()
    assert machine.refused == []


# -- what is refused, by the launcher or by the library -----------------------------------------


def test_kernels_that_were_not_finished(machine, tmp_path):
    folder = toy(tmp_path / "toy")
    (folder / "code/objects/guard.o").unlink()
    with pytest.raises(FirstlightError, match="F518") as caught:
        load(folder)
    assert "build.sh" in caught.value.try_


def test_an_op_of_the_vendor_that_nothing_is_bound_to(machine, tmp_path):
    folder = toy(tmp_path / "toy")
    table = json.loads((folder / "code/launch.json").read_text())
    table["modules"][1] = "extern/guard.json"
    (folder / "code/launch.json").write_text(json.dumps(table))
    (folder / "code/extern").mkdir()
    (folder / "code/extern/guard.json").write_text(json.dumps({"op": "npu_grouped_matmul"}))
    (folder / "code/objects/guard.o").unlink()
    seal(folder)
    with pytest.raises(FirstlightError, match="F518") as caught:
        load(folder)
    assert "npu_grouped_matmul" in str(caught.value)


@pytest.mark.parametrize(("content", "code", "why"), [
    (b"rubbish", "F517", "error 107020, rt.binary_load_from_data: no object"),
    (fake_object("aic", {"guard_1": (1, 4)}), "F517", "the magic is another core's"),
    (fake_object("aiv", {"other": (1, 4)}), "F502", "no function guard_1"),
])
def test_code_that_the_driver_refuses(machine, tmp_path, content, code, why):
    folder = toy(tmp_path / "toy")
    (folder / "code/objects/guard.o").write_bytes(content)
    with pytest.raises(FirstlightError, match=code) as caught:
        load(folder)
    assert why in caught.value.why


def test_a_function_that_takes_other_arguments(machine, tmp_path):
    folder = toy(tmp_path / "toy")
    (folder / "code/objects/guard.o").write_bytes(fake_object("aiv", {"guard_1": (2, 4)}))
    with load(folder) as model, pytest.raises(FirstlightError, match="F611") as caught:
        model.session().prefill([1])
    assert "guard_1 takes 32 bytes of arguments, not 24" in caught.value.why


def test_the_kind_of_core_is_read_where_the_table_does_not_say(machine, tmp_path):
    folder = toy(tmp_path / "toy")
    table = json.loads((folder / "code/launch.json").read_text())
    (folder / "code/launch.json").write_text(json.dumps(table | {"chip": {"cores": {}}}))
    seal(folder)
    with load(folder) as model:
        model.session().prefill([1])
    assert machine.refused == []


@pytest.mark.parametrize(("settings", "code", "why"), [
    ({"devices": 0}, "F516", "there are 0 devices"),
    ({"soc": "Ascend910B2"}, "F510", "one line of chips"),
    ({"soc": ""}, "F510", "one line of chips"),
    ({"room": 100}, "F514", "out of memory"),
])
def test_a_machine_that_cannot_run_it(machine, artifact, settings, code, why):
    for name, value in settings.items():
        setattr(machine, name, value)
    with pytest.raises(FirstlightError, match=code) as caught:
        load(artifact)
    assert why in caught.value.why
    gc.collect()
    assert machine.left() == ["no finalize"]


def test_a_device_that_gives_no_context_is_given_back(machine, artifact):
    machine.module.rt.create_context = lambda device: (0, 507000)
    with pytest.raises(FirstlightError, match="F516") as caught:
        load(artifact)
    assert "acl.rt.create_context: error 507000" in caught.value.why
    assert machine.left() == ["no finalize"]


def test_no_package_and_no_such_device(machine, artifact, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_DEVICE", "3")
    with pytest.raises(FirstlightError, match="F516"):
        load(artifact)
    monkeypatch.setitem(sys.modules, "acl", None)
    acl.api.cache_clear()
    monkeypatch.delenv("FIRSTLIGHT_DEVICE")
    with pytest.raises(FirstlightError, match="F515"):
        load(artifact)


def test_a_function_that_an_old_version_does_not_have(machine, artifact):
    del machine.module.rt.kernel_args_get_mem_size
    with load(artifact) as model, pytest.raises(FirstlightError, match="F611") as caught:
        model.session().prefill([1])
    assert "does not exist in this version of CANN" in caught.value.why


def test_a_launcher_without_locks_refuses_kernels_that_need_them(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(AclDriver, "clears_locks", False)
    folder = toy(tmp_path / "toy", args=["l", 0, 1, 2, 3], locks=1)
    with pytest.raises(FirstlightError, match="F502"):
        load(folder)


def wrong_order(fake: FakeAcl, function: int, stream: int) -> None:
    room = (ctypes.c_uint8 * 512)()
    fake.module.rt.kernel_args_append(ctypes.addressof(room), ctypes.addressof(room), 8)


def not_finalized(fake: FakeAcl, function: int, stream: int) -> None:
    room, values = (ctypes.c_uint8 * 512)(), (ctypes.c_uint8 * 512)()
    handle = ctypes.addressof(room)
    fake.module.rt.kernel_args_init_by_user_mem(function, handle, ctypes.addressof(values), 88)
    fake.module.rt.launch_kernel_with_config(function, 1, stream, [], handle, 0)


def too_many(fake: FakeAcl, function: int, stream: int) -> None:
    room, values = (ctypes.c_uint8 * 512)(), (ctypes.c_uint8 * 512)()
    handle = ctypes.addressof(room)
    fake.module.rt.kernel_args_init_by_user_mem(function, handle, ctypes.addressof(values), 72)
    fake.module.rt.kernel_args_append(handle, ctypes.addressof(values), 24)


def freed(fake: FakeAcl, function: int, stream: int) -> None:
    fake.module.rt.free(0x1234)


def pageable(fake: FakeAcl, function: int, stream: int) -> None:
    host, (address, _) = np.zeros(64, np.uint8), fake.module.rt.malloc(64, 0)
    fake.module.rt.memcpy_async(address, 64, host.ctypes.data, 64, 1, stream)


def beyond(fake: FakeAcl, function: int, stream: int) -> None:
    address, _ = fake.module.rt.malloc(64, 0)
    fake.module.rt.memset_async(address + 32, 64, 0, 64, stream)


def unknown_stream(fake: FakeAcl, function: int, stream: int) -> None:
    fake.module.rt.synchronize_stream(1)


def unset_device(fake: FakeAcl, function: int, stream: int) -> None:
    fake.module.rt.create_context(7)


@pytest.mark.parametrize(("mistake", "why"), [
    (wrong_order, "a list of arguments that was not begun"),
    (not_finalized, "the list is not finalized"), (too_many, "more arguments than room"),
    (freed, "no memory of the device begins there"), (pageable, "of pageable memory"),
    (beyond, "outside of the device's memory"), (unknown_stream, "no such stream"),
    (unset_device, "the device is not set"),
])
def test_the_fake_refuses(machine, artifact, mistake, why):
    """Planted mistakes of a launcher, each of which the fake must see."""
    driver = AclDriver(read_manifest(artifact))
    queue = driver.queue()
    function = driver.load(artifact / "code/lowered/guard.mlir", ["guard_1"])["guard_1"]
    with driver.device.current():
        mistake(machine, function.handle, queue.stream)
    assert why in machine.refused[-1]
    queue.device.api("rt.synchronize_stream", queue.stream)
    driver.close()


def test_a_pointer_that_was_freed_is_found_when_it_is_used(machine, artifact):
    driver = AclDriver(read_manifest(artifact))
    queue = driver.queue()
    function = driver.load(artifact / "code/lowered/guard.mlir", ["guard_1"])["guard_1"]
    memory = queue.allocate(64)
    bound = queue.bind([Call(function, (1,), (1,), 0, (Pointer(memory), 1))])
    queue.run(bound)
    queue.finish()
    with driver.device.current():
        machine.module.rt.free(memory.address)
    queue.run(bound)
    with pytest.raises(DeviceError, match="which is no memory"):
        queue.finish()
    with pytest.raises(DeviceError, match="broken by an earlier failure"):
        queue.finish()
    driver.close()
