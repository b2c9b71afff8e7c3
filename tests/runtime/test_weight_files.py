"""Weight files: the same bytes mapped and copied, and which of both is chosen."""

import errno

import numpy as np
import pytest

from firstlight.runtime import load, pages, weight_files
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers import cpu
from firstlight.runtime.pages import HUGE, SETTING
from firstlight.runtime.weight_files import copied, mapped, reader

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that says what the system's files say; a file of 1 GiB of weights."""
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(pages, "_THP", tmp_path / "enabled")
    monkeypatch.setattr(weight_files, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(weight_files, "_CGROUP", tmp_path)
    weights = tmp_path / "weights"
    with open(weights, "wb") as file:
        file.truncate(GIB)

    def choose(available: int, huge: str = "always [madvise] never", group: str = "max",
               used: int = 0) -> object:
        (tmp_path / "enabled").write_text(huge)
        (tmp_path / "meminfo").write_text(f"MemFree: 1 kB\nMemAvailable:   {available >> 10} kB\n")
        (tmp_path / "memory.max").write_text(group)
        (tmp_path / "memory.current").write_text(str(used))
        return reader([weights])

    choose.folder = tmp_path
    return choose


@pytest.mark.parametrize("size", [1, 4096, HUGE, HUGE + 100])
def test_a_copy_has_the_bytes_of_the_file(tmp_path, size):
    path = tmp_path / "w"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    one, other = mapped(path), copied(path)
    assert np.array_equal(one, other)
    assert other.ctypes.data % HUGE == 0
    assert not other.flags.writeable


def test_copied_where_memory_is_plenty(machine):
    assert machine(4 * GIB) is copied
    assert machine(4 * GIB - 4096) is mapped
    assert machine(64 * GIB, huge="always madvise [never]") is mapped
    assert machine(64 * GIB, group=str(8 * GIB), used=4 * GIB) is copied
    assert machine(64 * GIB, group=str(8 * GIB), used=5 * GIB) is mapped
    (machine.folder / "small").write_bytes(bytes(4096))
    assert reader([machine.folder / "small"]) is mapped
    (machine.folder / "meminfo").unlink()
    assert reader([machine.folder / "weights"]) is mapped


def test_the_setting_decides(machine, monkeypatch):
    monkeypatch.setenv(SETTING, "1")
    assert machine(0) is copied
    monkeypatch.setenv(SETTING, "0")
    assert machine(64 * GIB) is mapped
    monkeypatch.setenv(SETTING, "yes")
    with pytest.raises(FirstlightError, match="is not a setting") as error:
        machine(64 * GIB)
    assert error.value.code == "F512"


@pytest.mark.parametrize(("number", "said", "code"), [
    (errno.ENOMEM, "no memory for the weights", "F514"), (errno.EIO, "cannot be read", "F502")])
def test_weights_that_cannot_be_had_are_told(number, said, code, tiny_artifact, monkeypatch):
    def failing(path):
        raise OSError(number, "no")

    monkeypatch.setattr(cpu, "reader", lambda paths: failing)
    with pytest.raises(FirstlightError, match=said) as error:
        load(tiny_artifact)
    assert error.value.code == code
