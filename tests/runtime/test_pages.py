"""Huge pages: who asks for them, and for what."""

import errno
import mmap
from types import SimpleNamespace

import pytest

from firstlight.runtime import pages
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers import cpu

PAGE = mmap.PAGESIZE


class Room:
    """Records what is advised; fails with an error number if it has one."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def madvise(self, advice, start, size):
        self.calls.append((advice, start, size))
        if self.error:
            raise OSError(self.error, "no")


@pytest.mark.parametrize(("start", "size", "first", "left"), [
    (0, 3 * PAGE, 0, 3 * PAGE), (PAGE, 100, PAGE, 100),
    (PAGE + 1, 3 * PAGE, 2 * PAGE, 2 * PAGE + 1), (1, 5, PAGE, 0),
])  # fmt: skip
def test_they_are_asked_for_from_a_boundary_on(start, size, first, left):
    room = Room()
    pages.advise(room, start, size)
    assert room.calls == [(mmap.MADV_HUGEPAGE, first, left)]


def test_a_system_without_them_does():
    pages.advise(Room(errno.EINVAL), 0, PAGE)


def test_a_state_asks_behind_the_beginning_of_large_tensors(monkeypatch):
    monkeypatch.delenv(pages.SETTING, raising=False)
    monkeypatch.setattr(pages, "_available", lambda: True)
    sizes = [pages.HUGE, pages.WORTH - 1, pages.WORTH, 2 * pages.WORTH]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    manifest = SimpleNamespace(state=[SimpleNamespace(offset=offset, bytes=size)
                                      for offset, size in zip(offsets, sizes, strict=True)])
    assert cpu._deep(manifest) == [
        (offsets[at] + pages.HUGE, sizes[at] - pages.HUGE) for at in (2, 3)]
    monkeypatch.setenv(pages.SETTING, "0")
    assert cpu._deep(manifest) == []


def test_a_setting_that_is_none(monkeypatch):
    monkeypatch.setenv(pages.SETTING, "yes")
    with pytest.raises(FirstlightError, match="F512"):
        pages.setting()
