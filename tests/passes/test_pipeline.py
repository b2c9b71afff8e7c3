"""Pipelines: their text, their errors, the dumps, and a pass that goes wrong."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from firstlight.ir.core import Function, Module
from firstlight.ir.parser import parse as parse_module
from firstlight.passes import PASSES, PIPELINE, parse, run_pipeline, spell
from firstlight.passes.base import Pass
from firstlight.passes.canonicalize import Canonicalize
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.passes.legalize import Legalize
from firstlight.passes.specialize import Specialize
from firstlight.runtime.errors import FirstlightError
from support.modules import composite, pieces


def test_text_and_passes_are_the_same() -> None:
    text = "canonicalize{chains=true},legalize{ops=rms_norm+rope},specialize{batch=2,tokens=0}"
    passes = parse(text)
    assert passes == (Canonicalize(chains=True), Legalize(("rms_norm", "rope")),
                      Specialize(batch=2, tokens=0))
    assert spell(passes) == text
    assert spell(parse(PIPELINE)) == PIPELINE
    assert parse("") == ()
    assert parse(" canonicalize { chains = true } , fuse-linears ") == parse(
        "canonicalize{chains=true},fuse-linears")


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_shows_before_and_after(name: str) -> None:
    kind = PASSES[name]
    assert kind.name == name
    assert "before   " in (kind.__doc__ or "")
    assert "after    " in (kind.__doc__ or "")
    assert parse(name) == (kind(),)


@pytest.mark.parametrize(("text", "says"), [
    ("fuse-everything", "the passes are canonicalize, fuse-norm-rope"),
    ("canonicalize{chain=true}", "its options are: chains"),
    ("fuse-indexer{k=3}", "its options are: none"),
    ("canonicalize{chains=maybe}", "the option is of type bool"),
    ("specialize{tokens=many}", "the option is of type int"),
    ("canonicalize fuse-linears", "the text there is `canonicalize fuse-linears`"),
    ("canonicalize,,fuse-linears", "the text there is `,fuse-linears`"),
    ("canonicalize{", "the text there is `canonicalize{`"),
])
def test_errors_list_what_exists(text: str, says: str) -> None:
    with pytest.raises(FirstlightError) as e:
        parse(text)
    assert e.value.code == "F301"
    assert says in str(e.value)
    assert len(str(e.value).splitlines()) == 4


def test_dumps_are_numbered_and_parse_back(tmp_path: Path) -> None:
    after = run_pipeline(pieces("compress"), "fuse-norm-rope,fuse-compressor", tmp_path / "dump")
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names == ["00-input.ir", "01-fuse-norm-rope.ir", "02-fuse-compressor.ir"]
    assert str(parse_module((tmp_path / "dump" / names[-1]).read_text())) == str(after)


@dataclass(frozen=True)
class Breaks(Pass):
    """Forgets the ops of every function."""

    name: ClassVar[str] = "breaks"
    depth: int = 1

    def run(self, module: Module) -> Module:
        return Module({f.name: Function(f.name, f.args, (), f.results) for f in module})


@pytest.mark.parametrize("dumped", [True, False])
def test_a_broken_pass_leaves_its_input_and_a_command(tmp_path: Path, dumped: bool) -> None:
    before = composite("rms_norm")
    with pytest.raises(FirstlightError) as e:
        run_pipeline(before, [Canonicalize(), Breaks(depth=2)], tmp_path if dumped else None)
    assert e.value.code == "F302"
    assert "pass 'breaks'" in e.value.what
    command = re.search(r"python -m firstlight.passes '(.*before\.ir)' 'breaks\{depth=2\}'",
                        e.value.try_)
    assert command
    assert str(parse_module(Path(command[1]).read_text())) == str(before)
    assert not dumped or Path(command[1]).parent == tmp_path


def test_the_input_is_verified_first() -> None:
    with pytest.raises(FirstlightError, match="F206"):
        run_pipeline(Breaks().run(composite("rms_norm")), "")


def test_the_replay_command_works(tmp_path: Path) -> None:
    path = tmp_path / "before.ir"
    path.write_text(str(pieces("rms_norm")))

    def replay(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "firstlight.passes", *args], text=True,
                              capture_output=True, check=False)

    done = replay(str(path), "fuse-norm-rope")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == str(run_pipeline(pieces("rms_norm"), "fuse-norm-rope"))
    wrong = replay(str(path), "fuse-everything")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error[F301]")
    assert replay().returncode == 2


def test_capabilities_are_plain_data() -> None:
    some = Capabilities(frozenset({"rope", "linear"}), 64,
                        (MemorySpace("host"), MemorySpace("scratch", 1 << 18, 32)))
    assert Capabilities.from_json(some.to_json()) == some
    with pytest.raises(FirstlightError, match="F305"):
        Capabilities(frozenset({"ropes"}))
