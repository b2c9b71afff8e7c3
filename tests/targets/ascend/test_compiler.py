"""What the chip's compiler says, told apart, with a shell script in its place."""

from pathlib import Path

import pytest

from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend import compiler
from firstlight.targets.ascend.build import Builder
from firstlight.targets.ascend.emit import Module

CHIP = "Ascend950PR_9589"
NO_CANN = "echo '[ERROR] Cannot find hivmc-a5 under $PATH' >&2\n" * 5 + (
    "echo '[ERROR] Failed to run BiShengIR pipeline' >&2\n")
WRITES = """for word in "$@"; do
    case $word in --save-temps=*) folder=${word#--save-temps=};; esac
done
printf 'module { func.func private @gone(f32) "/usr/lib/meta_op.aiv.c310.bc" }' > \
"$folder/module.hivm.opt.mlir"
printf '// -----// IR Dump Before X //----- //\\nmodule {\\n}\\n' >&2
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a script in the compiler's place."""
    def put(script: str) -> None:
        path = tmp_path / "bishengir-compile-a5"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        monkeypatch.setattr(compiler, "compiler", lambda: path)
        monkeypatch.setattr(compiler, "cache", lambda: tmp_path / "cache")
        monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path))
        compiler.digest.cache_clear()

    yield put
    compiler.digest.cache_clear()


def test_lowered_is_that_only_the_last_step_is_missing_and_a_module_is_written(stand_in):
    stand_in(f"{WRITES}{NO_CANN}exit 1\n")
    lowered = compiler.lower("module {}", CHIP, "k")
    assert '"bitcode/meta_op.aiv.c310.bc"' in lowered.module
    assert lowered.snapshot == "module {\n}\n"


@pytest.mark.parametrize(("script", "why"), [
    (f"{NO_CANN}exit 1\n", "it says nothing"),
    (f"{WRITES}{NO_CANN}echo 'k.mlir:1:2: error: bad' >&2\nexit 1\n", "error: bad"),
    (f"{WRITES}{NO_CANN}kill -ABRT $$\n", "ended by signal 6"),
    (f"{WRITES}echo '[ERROR] something else' >&2\nexit 1\n", "it says nothing"),
])
def test_anything_else_is_not(stand_in, script, why):
    stand_in(script)
    with pytest.raises(FirstlightError, match="F474") as error:
        compiler.lower("module {}", CHIP, "k")
    assert why in error.value.why
    assert len(str(error.value).splitlines()) == 4
    assert Path(error.value.try_.rpartition(" ")[2]).read_text() == "module {}"


def test_it_may_not_take_forever(stand_in):
    stand_in("exec sleep 60\n")
    with pytest.raises(FirstlightError, match="F474") as error:
        compiler.lower("module {}", CHIP, "k", seconds=1)
    assert "not done after 1 s" in error.value.why


def test_tiles_that_do_not_fit_are_told_apart_in_bytes(stand_in):
    stand_in("echo 'error: ub overflow, requires 2097152 bits while 2031616 bits available!' >&2\n"
             "exit 1\n")
    with pytest.raises(compiler.TooLarge, match="F475") as error:
        compiler.lower("module {}", CHIP, "k")
    assert "262144 bytes" in error.value.why
    assert "253952" in error.value.why
    assert Builder(CHIP).accept(Module("k", "module {}")).startswith("F475")


def test_an_unknown_compiler_is_warned_of_and_used(stand_in):
    stand_in(f"{WRITES}{NO_CANN}exit 1\n")
    assert "not a known one" in compiler.warning()
    compiler.lower("module {}", CHIP, "k")


def test_what_it_lowered_is_kept(stand_in):
    stand_in(f"{WRITES}{NO_CANN}exit 1\n")
    first = compiler.lower("module {}", CHIP, "k")
    compiler.compiler().write_text("#!/bin/sh\nexit 3\n")      # the digest of its file is kept, too
    assert compiler.lower("module {}", CHIP, "k") == first
    with pytest.raises(FirstlightError, match="F474"):
        compiler.lower("module { }", CHIP, "k")
