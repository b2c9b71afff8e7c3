"""The program that a card's owner runs, run here on plain functions in place of a card."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from firstlight.targets.cambricon.lint import broken
from firstlight.targets.cambricon.selftest import write

PLAIN = Path(__file__).parents[2] / "support/plain_bang"
OPS = ("add", "linear", "rms_norm")
pytestmark = [pytest.mark.chip, pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The self-test of some ops; launches are spelt as calls, which is all g++ cannot read."""
    made = tmp_path_factory.mktemp("selftest")
    for path in write(made, ops=OPS, staging=False):       # one task has no cluster
        if path.suffix == ".mlu":
            assert path.name == "selftest.mlu" or broken(path.read_text()) == []
            path.write_text(re.sub(r"<<<[^>]*>>>", "", path.read_text()))
    return made


def report(folder: Path, *flags: str) -> tuple[int, dict]:
    """Build and run: status and JSON."""
    subprocess.run(["g++", "-x", "c++", "-std=c++17", "-w", "-O1", "-fno-strict-aliasing",
                    "-DFIRSTLIGHT_LAUNCHERS", f"-I{PLAIN}", *flags, "selftest.mlu", "-o",
                    "selftest"],
                   cwd=folder, check=True)
    done = subprocess.run(["./selftest"], cwd=folder, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def test_a_card_as_we_believe_it_passes(folder):
    status, said = report(folder)
    assert (status, said["failed"], said["arch"]) == (0, 0, "mtp_592")
    assert said["wram"]["as_believed"]
    assert said["wram"]["columns"] == list(range(64))
    assert len(said["kernels"]) == len(OPS)


def test_another_order_in_wram_is_said_first(folder):
    status, said = report(folder, "-DSHUFFLED(n)=((n)^1)")
    assert status == 1
    assert not said["wram"]["as_believed"]
    assert said["wram"]["columns"][:4] == [1, 0, 3, 2]
    assert [k for k, one in said["kernels"].items() if not one["ok"]] == [
        k for k in said["kernels"] if k.startswith("linear")]


def test_wrong_numbers_are_found(folder):
    data = folder / "vectors.bin"
    before = data.read_bytes()
    data.write_bytes(before[:-4] + b"\0\0\x80\x3f")
    status, said = report(folder)
    data.write_bytes(before)
    assert status == 1
    assert said["wram"]["as_believed"]
    assert said["failed"] == 1
