"""Objects of kernels: the same bytes however they were made, and made once."""

import os
import signal
from pathlib import Path

import pytest

from firstlight.codegen import objects
from firstlight.codegen.apart import Died
from firstlight.codegen.cache import VARIABLE, Cache, user_cache
from firstlight.codegen.objects import build_objects
from firstlight.codegen.tvm_bridge import T, fingerprint, prim_func

OPTIONS = {"mcpu": "x86-64-v3"}


def scale(name: str, factor: float):
    """y[i] = factor * x[i] of S numbers."""
    def body(x_, y_, S):
        x = T.decl_buffer((S,), "float32", data=x_)
        y = T.decl_buffer((S,), "float32", data=y_)
        with T.serial(S) as i:
            T.buffer_store(y, x[i] * T.float32(factor), [i])

    return prim_func(name, [("x", "float32"), ("y", "float32")], body)


@pytest.fixture
def kernels():
    return {f"scale_{i}": scale(f"scale_{i}", float(i)) for i in range(4)}


def built(kernels, folder: Path, jobs: int) -> list[bytes]:
    folder.mkdir()
    paths = build_objects(kernels, OPTIONS, folder, jobs)
    assert [p.name for p in paths] == [f"{n}.o" for n in sorted(kernels)]
    return [p.read_bytes() for p in paths]


def test_the_number_of_processes_does_not_matter(kernels, tmp_path) -> None:
    one = built(kernels, tmp_path / "1", 1)
    assert built(kernels, tmp_path / "3", 3) == one
    assert len(set(one)) == len(kernels)


def test_the_second_time_nothing_is_compiled(kernels, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    first = built(kernels, tmp_path / "1", 2)
    monkeypatch.setattr(objects, "build_object", lambda *_: pytest.fail("compiled again"))
    assert built(kernels, tmp_path / "2", 1) == first
    with pytest.raises(BaseException, match="compiled again"):
        built({"scale_0": scale("scale_0", 7.0)}, tmp_path / "3", 1)
    with pytest.raises(BaseException, match="compiled again"):
        build_objects(kernels, {"mcpu": "x86-64-v4"}, tmp_path, 1)


def test_fingerprints_tell_kernels_apart() -> None:
    assert fingerprint(scale("a", 1.0)) == fingerprint(scale("a", 1.0))
    assert fingerprint(scale("a", 1.0)) != fingerprint(scale("a", 2.0))


def test_what_goes_wrong_in_a_process_is_raised_here(kernels, tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise ValueError("no such instruction")

    monkeypatch.setattr(objects, "build_object", fail)
    with pytest.raises(ValueError, match="no such instruction"):
        build_objects(kernels, OPTIONS, tmp_path, 2)
    monkeypatch.setattr(objects, "build_object", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(Died, match="signal 9"):
        build_objects(kernels, OPTIONS, tmp_path, 2)


def test_a_cache_keeps_what_was_used_last(tmp_path) -> None:
    cache, file = Cache(tmp_path / "cache", most_bytes=250), tmp_path / "file"
    file.write_bytes(bytes(100))
    for at, key in enumerate("abc"):
        cache.keep(key, file)
        os.utime(tmp_path / "cache" / key, (at, at))
    assert cache.fetch("a", tmp_path / "got")
    cache.trim()
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["a", "c"]


def test_a_cache_never_fails(tmp_path, monkeypatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"x")
    for cache in (Cache(None), Cache(blocked), Cache(blocked / "below")):
        cache.keep("key", blocked)
        cache.trim()
        assert not cache.fetch("key", tmp_path / "got")
    monkeypatch.setenv(VARIABLE, "off")
    assert user_cache("kernels").folder is None
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("kernels").folder == tmp_path / "firstlight" / "kernels"
