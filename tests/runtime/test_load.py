"""Loading: damaged, foreign and newer artifacts; verification; speed; no compiler in sight."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from firstlight.runtime import FirstlightError, cpu, load, verify_artifact
from support.fake_artifact import (
    VOCAB,
    expected_logits,
    program,
    seal,
    write_fake_artifact,
    write_manifest,
)

WEIGHTS = "weights/global.safetensors"


def code_of(call, *args, **kwargs) -> str:
    with pytest.raises(FirstlightError) as caught:
        call(*args, **kwargs)
    assert len(str(caught.value).splitlines()) == 4
    return caught.value.code


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_fake_artifact(tmp_path / "artifact", tokenizer=True)


def test_no_artifact(tmp_path):
    assert code_of(load, tmp_path) == code_of(load, tmp_path / "none") == "F501"
    (tmp_path / "file").write_text("x")
    assert code_of(load, tmp_path / "file") == "F501"


@pytest.mark.parametrize("name", ["code/model.so", WEIGHTS, "program.json", "tokenizer.json"])
@pytest.mark.parametrize("verify", ["quick", True, False])
def test_missing_and_cut_files(artifact, name, verify):
    path = artifact / name
    path.write_bytes(path.read_bytes()[:-1])
    assert code_of(load, artifact, verify=verify) == "F504"
    path.unlink()
    assert code_of(load, artifact, verify=verify) == "F504"


@pytest.mark.parametrize("name", ["code/model.so", "program.json", "tokenizer.json"])
def test_a_changed_byte_is_found(artifact, name):
    flip(artifact / name, 300)
    assert code_of(load, artifact) == code_of(load, artifact, verify=True) == "F504"
    report = verify_artifact(artifact)
    assert not report.ok
    assert list(report.damaged) == [name]


def test_a_changed_byte_in_the_weights_is_found_by_full_verification(artifact):
    flip(artifact / WEIGHTS, 20)
    assert code_of(load, artifact) == "F504"  # in the header
    flip(artifact / WEIGHTS, 20)
    flip(artifact / WEIGHTS, -1)
    load(artifact, threads=1).close()
    assert code_of(load, artifact, verify=True) == "F504"
    report = verify_artifact(artifact)
    assert list(report.damaged) == [WEIGHTS]
    assert "sha256" in report.damaged[WEIGHTS]


def test_any_byte_of_the_manifest_counts(artifact):
    text = (artifact / "manifest.json").read_bytes()
    digest = text.index(b'"digest"')
    for at in {*range(0, len(text), 7), *range(digest, len(text) - 4)}:
        changed = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        (artifact / "manifest.json").write_bytes(changed)
        assert code_of(load, artifact) in ("F502", "F503")
    (artifact / "manifest.json").write_bytes(text)
    load(artifact, threads=1).close()


def test_verification_reports_everything(artifact):
    (artifact / "more.txt").write_text("x")
    seen = []
    report = verify_artifact(artifact, seen.append)
    assert report.ok
    assert sum(seen) == report.bytes
    assert report.files == 4
    assert report.unlisted == ("more.txt",)
    flip(artifact / WEIGHTS, -1)
    (artifact / "program.json").unlink()
    assert sorted(verify_artifact(artifact).damaged) == ["program.json", WEIGHTS]


def test_newer_schema_is_refused_by_name(tmp_path):
    folder = write_fake_artifact(tmp_path / "a", changes={"schema": 2})
    with pytest.raises(FirstlightError, match="schema 2") as caught:
        load(folder)
    assert caught.value.code == "F503"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", {}),
        ("model.vocab_size", 0),
        ("model.vocab_size", "32"),
        ("model.vocab_size", 2.5),
        ("model.vocab_size", True),
        ("limits.context", -1),
        ("limits.chunk", None),
        ("state.bytes", 8),
        ("state.tensors", [{}]),
        ("target", "cpu"),
    ],
)
def test_nonsense_in_the_manifest(tmp_path, path, value):
    folder = write_fake_artifact(tmp_path / "a", changes={path: value})
    assert code_of(load, folder) == "F502"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\b"])
def test_files_outside_the_artifact(artifact, name):
    write_manifest(artifact, files={name: {"bytes": 0, "sha256": ""}})
    assert code_of(load, artifact) == "F502"


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "[" * 200000, '{"schema": 1}'])
def test_manifest_that_is_no_manifest(artifact, text):
    (artifact / "manifest.json").write_bytes(text.encode("latin-1"))
    assert code_of(load, artifact) in ("F502", "F503")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.clear(),
        lambda p: p.update(schema=2),
        lambda p: p["kernels"].pop(0),
        lambda p: p["kernels"].__setitem__(0, "no_such_kernel"),
        lambda p: p["weights"].pop(),
        lambda p: p["weights"].append(["weights/none.safetensors", "x"]),
        lambda p: p["weights"].__setitem__(0, [WEIGHTS, "none"]),
        lambda p: p.update(arena_bytes=64),
        lambda p: p.update(entries={}),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, "a:x"),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, "a:-64"),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, "a:99999999"),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, "s:99999999"),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, "w:2"),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, ""),
        lambda p: p["entries"]["decode"]["steps"][0][1].__setitem__(0, "t t"),
        lambda p: p["entries"]["decode"]["steps"][0][1].pop(),
        lambda p: p["entries"]["decode"]["steps"][2][1].append("t"),
        lambda p: [e["steps"][1].__setitem__(1, []) for e in p["entries"].values()],
        lambda p: p["entries"]["decode"]["inputs"].pop("tokens"),
        lambda p: p["entries"]["decode"]["inputs"]["tokens"].update(shape=[0]),
        lambda p: p["entries"]["prefill"]["inputs"]["tokens"].update(shape=[4]),
        lambda p: p["entries"]["prefill"]["inputs"]["pos"].update(shape=["S"]),
        lambda p: p["entries"]["prefill"]["inputs"]["last"].pop("shape"),
        lambda p: p["entries"]["decode"]["outputs"]["logits"].update(shape=[1, 7]),
    ],
)
def test_nonsense_in_the_program(artifact, change):
    document = json.loads(json.dumps(program(5, ("decode", "prefill", "score"))))  # nothing shared
    change(document)
    (artifact / "program.json").write_text(json.dumps(document))
    seal(artifact)
    assert code_of(load, artifact) == "F502"


def test_another_cpu(tmp_path, monkeypatch):
    needs = {"arch": cpu.architecture(), "features": ["avx99", "fma3000"]}
    folder = write_fake_artifact(tmp_path / "a", changes={"target.requires": needs})
    with pytest.raises(FirstlightError, match="it has no avx99, fma3000") as caught:
        load(folder)
    assert caught.value.code == "F510"
    other = write_fake_artifact(tmp_path / "b", changes={"target.requires": {"arch": "vax"}})
    assert code_of(load, other) == "F510"
    monkeypatch.setattr(cpu, "_CPUINFO", Path("/nonexistent"))
    assert cpu.features() == frozenset()


def test_code_that_is_no_code(artifact):
    (artifact / "code/model.so").write_bytes(b"\x7fELF" + bytes(100))
    seal(artifact)
    assert code_of(load, artifact) == "F513"


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, True, "2"])
def test_wrong_threads(artifact, threads):
    assert code_of(load, artifact, threads=threads) == "F512"


def test_wrong_options(artifact, tmp_path):
    for verify in ("fast", 1, 0, 1.0, np.True_, np.ones(2), None):
        assert code_of(load, artifact, verify=verify) == "F505"
    other = write_fake_artifact(tmp_path / "b", changes={"target.launcher": "abacus"})
    assert code_of(load, other) == "F511"


@pytest.mark.parametrize("path", [None, 1, b"x", [], "a\0b", Path("a\0b"), "\ud800"])
def test_what_is_no_path(artifact, path):
    assert code_of(load, path) == code_of(verify_artifact, path) == "F501"
    with load(artifact, threads=1) as model:
        assert code_of(model.restore, path) == "F520"
        assert code_of(model.session().save, path) == "F640"


def test_threads_default_to_the_affinity_mask(artifact):
    with load(str(artifact)) as model:
        assert model.threads == cpu.usable_cores()


def test_without_a_tokenizer_only_text_fails(tmp_path):
    with load(write_fake_artifact(tmp_path / "a"), threads=1) as model:
        assert code_of(lambda: model.tokenizer) == "F630"
        s = model.session()
        assert code_of(s.generate, [1], 3, stop="x") == "F630"
        s.prefill([1, 2])
    damaged = write_fake_artifact(tmp_path / "b")
    (damaged / "tokenizer.json").write_text("{}")
    seal(damaged)
    with load(damaged, threads=1) as model:
        assert code_of(lambda: model.tokenizer) == "F630"


def test_no_memory_for_a_session(tmp_path):
    huge = {"state.bytes": 1 << 60}
    with load(write_fake_artifact(tmp_path / "a", changes=huge), threads=1) as model:
        assert code_of(model.session) == "F514"


def test_a_terabyte_of_state_costs_nothing_until_touched(tmp_path):
    lazy = {"state.bytes": 1 << 40}
    with load(write_fake_artifact(tmp_path / "a", changes=lazy), threads=1) as model:
        sessions = [model.session() for _ in range(3)]
        for s in sessions:
            s.prefill([1, 2, 3])


def reprogrammed(artifact: Path, change) -> Path:
    """The artifact with a program that `change` changed in place."""
    document = json.loads(json.dumps(program(5, ("decode", "prefill", "score"))))
    change(document)
    (artifact / "program.json").write_text(json.dumps(document))
    seal(artifact)
    return artifact


def short(document):
    """A kernel lacks the same word in every step."""
    for entry in document["entries"].values():
        for step in entry["steps"]:
            if step[0] == 1:
                del step[1][0]


def swapped(document):
    """As many words as it should have, of the wrong kinds."""
    for entry in document["entries"].values():
        entry["steps"][1][1].reverse()              # S before the pointer


def reaching(document):
    """The last rows of the chunk lie beyond the arena; those of one token do not."""
    document["entries"]["score"]["steps"][0][1][7] = f"a:{document['arena_bytes'] - 64}"


def too_few(document):
    del document["signatures"][-1]


def senseless(document):
    document["signatures"][1][0] = ["pow", "S", 4]


@pytest.mark.parametrize("change", [short, swapped, reaching, too_few, senseless])
def test_a_program_that_disagrees_with_its_kernels(artifact, change):
    assert code_of(load, reprogrammed(artifact, change), threads=1) == "F502"


def test_a_program_without_signatures_is_an_old_one(artifact):
    with load(reprogrammed(artifact, lambda d: d.pop("signatures")), threads=1) as model:
        assert model.program.signatures == ()
        model.session().prefill([1, 2])


def test_a_long_program_loads_quickly(artifact):
    document = program(5, ("decode", "prefill", "score"))
    for entry in document["entries"].values():
        entry["steps"] = entry["steps"][:1] * 4000 + entry["steps"]  # 36000 words each
    (artifact / "program.json").write_text(json.dumps(document))
    seal(artifact)
    start = time.perf_counter()
    with load(artifact, threads=1) as model:
        loaded = time.perf_counter() - start
        start = time.perf_counter()
        model.session().prefill([1])
        first = time.perf_counter() - start
    assert loaded < 1.0, f"{loaded:.2f} s"  # 0.15 s on a quiet machine
    assert first < 0.5, f"{first:.2f} s"


def test_nothing_of_the_compiler_is_imported(artifact):
    banned = [
        "tvm", "tvm_ffi", "onnx", "onnxruntime", "torch", "transformers", "networkx", "ml_dtypes",
        "safetensors", "firstlight.ir", "firstlight.passes", "firstlight.codegen",
        "firstlight.frontend", "firstlight.targets", "firstlight.cli",
    ]  # fmt: skip
    script = f"""
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if any(name == b or name.startswith(b + ".") for b in {banned!r}):
                    raise ImportError(name + " must not be imported")
        sys.meta_path.insert(0, Refuse())
        from firstlight.runtime import load, verify_artifact
        with load({str(artifact)!r}, verify=True) as model:
            ids = model.tokenizer.encode("hello")
            s = model.session()
            tokens = list(s.generate(ids, 8, temperature=0.7, top_k=9, top_p=0.9, seed=1))
            assert len(tokens) == 8
            s.save({str(artifact)!r} + ".session")
            model.restore({str(artifact)!r} + ".session").fork().decode(1)
            model.tokenizer.decode(tokens)
        assert verify_artifact({str(artifact)!r}).ok
        print(model.session.__doc__ is not None)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"


def test_the_current_folder_does_not_matter(artifact, monkeypatch):
    monkeypatch.chdir(artifact.parent)
    with load("artifact", threads=1) as model:
        monkeypatch.chdir("/")
        logits = model.session().prefill([3, 5])
        assert model.tokenizer.encode("a") == [0]
    assert logits.shape == (VOCAB,)
    np.testing.assert_allclose(logits, expected_logits([3, 5])[-1], atol=2e-5)
