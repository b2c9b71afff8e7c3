"""Our safetensors reader and writer, with the `safetensors` package as second opinion."""

import hashlib
import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import (
    ALIGN,
    SafetensorsFile,
    SafetensorsWriter,
    TensorPlan,
    parse_json,
)


def raw_file(path: Path, header: Any, data: bytes = b"", claim: int | None = None) -> Path:
    """A file with any header (an object, or its bytes), data, and claimed header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claim is None else claim) + text + data)
    return path


def entry(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    arrays = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "h": np.ones(5, np.float16),
        "i": np.arange(4, dtype=np.int64),
        "b": np.array([True, False]),
        "empty": np.zeros((0, 7), np.float32),
        "scalar": np.array(3, np.int32),
        "u": np.arange(3, dtype=np.uint8),
    }
    save_file(arrays, tmp_path / "a.safetensors", metadata={"k": "v"})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert file.metadata == {"k": "v"}
    assert file.tensors.keys() == arrays.keys()
    for name, info in file.tensors.items():
        got = file.array(info)
        assert got.dtype == arrays[name].dtype
        np.testing.assert_array_equal(got, arrays[name])
        assert not (got.size and got.flags.writeable)
        assert file.raw(info).tobytes() == arrays[name].tobytes()


def test_the_package_reads_what_we_write(tmp_path: Path) -> None:
    path, rng = tmp_path / "w.safetensors", np.random.default_rng(0)
    arrays = {f"t{n}": rng.integers(0, 255, n, dtype=np.uint8) for n in (1, 64, 63, 65, 0, 128, 7)}
    plan = [TensorPlan(k, "U8", v.shape) for k, v in arrays.items()]
    with SafetensorsWriter(path, plan, {"b": "2", "a": "1"}) as out:
        for name, array in arrays.items():
            out.write(name, array)
    theirs = load_file(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
    assert set(theirs) - set(arrays) == {n for n in theirs if n.startswith("__pad_")}
    ours = SafetensorsFile(path)
    assert list(ours.tensors) == list(arrays), "in file order, fillers not shown"
    assert all(t.offset % ALIGN == 0 for t in ours.tensors.values())
    written = out.written
    assert written is not None
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written.header_sha256 == ours.header_sha256
    assert written.bytes == path.stat().st_size


def test_writer_takes_parts_in_order_and_is_deterministic(tmp_path: Path) -> None:
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4)
    plan = [TensorPlan("w", "BF16", (3, 4)), TensorPlan("s", "F8_E8M0", (3,))]
    hashes = []
    for name in ("one", "two"):
        with SafetensorsWriter(tmp_path / name, plan) as out:
            out.write("w", codes if name == "one" else (row for row in codes))
            out.write("s", np.zeros(3, np.uint8))
        hashes.append(out.written)
    assert hashes[0] == hashes[1]
    file = SafetensorsFile(tmp_path / "one")
    np.testing.assert_array_equal(file.array(file.tensors["w"]), codes)
    assert file.array(file.tensors["w"].rows(1, 3)).tolist() == codes[1:3].tolist()


def test_writer_refuses_what_was_not_planned(tmp_path: Path) -> None:
    plan = [TensorPlan("a", "U8", (2,)), TensorPlan("b", "U8", (2,))]
    two = np.zeros(2, np.uint8)
    out = SafetensorsWriter(tmp_path / "x", plan)
    with pytest.raises(ValueError, match="not the next"):
        out.write("b", two)
    with pytest.raises(ValueError, match="3 bytes given"):
        out.write("a", np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="not written"):
        out.close()
    with pytest.raises(ValueError, match="planned twice"):
        SafetensorsWriter(tmp_path / "y", plan * 2)


def test_released_pages_read_again(tmp_path: Path) -> None:
    array = np.arange(100_000, dtype=np.int32)
    save_file({"a": array[:7], "b": array}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors", random=True)
    file.will_need(file.tensors["b"])
    view = file.array(file.tensors["b"])
    file.release(file.tensors["b"])
    np.testing.assert_array_equal(view, array)


BAD = {
    "empty": ("F121", lambda p: p.write_bytes(b"")),
    "seven bytes": ("F121", lambda p: p.write_bytes(b"1234567")),
    "header longer than file": ("F121", lambda p: raw_file(p, {}, claim=1000)),
    "header of 2^63": ("F121", lambda p: raw_file(p, {}, claim=1 << 63)),
    "cut short": ("F121", lambda p: raw_file(p, {"a": entry()}, b"123")),
    "bytes behind": ("F121", lambda p: raw_file(p, {"a": entry()}, b"12345")),
    "not JSON": ("F122", lambda p: raw_file(p, b"{nonsense")),
    "not UTF-8": ("F122", lambda p: raw_file(p, b'{"\xff": 1}')),
    "a list": ("F122", lambda p: raw_file(p, [])),
    "deep": ("F122", lambda p: raw_file(p, b"[" * 100_000)),
    "deep object": ("F122", lambda p: raw_file(p, b'{"a":' * 100_000)),
    "huge number": ("F122", lambda p: raw_file(p, b'{"a":' + b"9" * 100_000 + b"}")),
    "brackets": ("F122", lambda p: raw_file(p, b'{"a":[' + b"[]," * 2_000_000 + b"1]}")),
    "key twice": ("F122", lambda p: raw_file(p, b'{"a":1,"a":1}')),
    "metadata": ("F122", lambda p: raw_file(p, {"__metadata__": {"a": 1}})),
    "metadata list": ("F122", lambda p: raw_file(p, {"__metadata__": []})),
    "no dtype": ("F123", lambda p: raw_file(p, {"a": {"shape": [], "data_offsets": [0, 1]}})),
    "entry null": ("F123", lambda p: raw_file(p, {"a": None})),
    "unknown dtype": ("F123", lambda p: raw_file(p, {"a": entry("F7")}, b"1234")),
    "negative": ("F123", lambda p: raw_file(p, {"a": entry(shape=[-1, -4])}, b"1234")),
    "bool size": ("F123", lambda p: raw_file(p, {"a": entry(shape=[True, 4])}, b"1234")),
    "float size": ("F123", lambda p: raw_file(p, {"a": entry(shape=[4.0])}, b"1234")),
    "huge size": ("F123", lambda p: raw_file(p, {"a": entry(shape=[1 << 62, 4])}, b"1234")),
    "overflow": ("F123", lambda p: raw_file(p, {"a": entry(shape=[1 << 40] * 3)}, b"1234")),
    "many axes": ("F123", lambda p: raw_file(p, {"a": entry(shape=[1] * 100_000)}, b"1234")),
    "three offsets": ("F123", lambda p: raw_file(p, {"a": entry(offsets=[0, 4, 4])}, b"1234")),
    "bool offset": ("F123", lambda p: raw_file(p, {"a": entry(offsets=[False, 4])}, b"1234")),
    "backwards": ("F123", lambda p: raw_file(p, {"a": entry(offsets=[4, 0])}, b"1234")),
    "size lies": ("F123", lambda p: raw_file(p, {"a": entry(shape=[5])}, b"1234")),
    "hole": ("F124", lambda p: raw_file(p, {"a": entry(offsets=[4, 8])}, b"12345678")),
    "overlap": (
        "F124",
        lambda p: raw_file(p, {"a": entry(), "b": entry(offsets=[2, 6])}, b"123456"),
    ),
    "shared": ("F124", lambda p: raw_file(p, {"a": entry(), "b": entry()}, b"1234")),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_files_are_refused_quickly(case: str, tmp_path: Path) -> None:
    code, write = BAD[case]
    path = tmp_path / "bad.safetensors"
    write(path)
    start = time.monotonic()
    with pytest.raises(FirstlightError) as caught:
        SafetensorsFile(path)
    assert time.monotonic() - start < 5
    assert caught.value.code == code
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) == 4
    assert len(str(caught.value)) < 2000
    with pytest.raises(safetensors.SafetensorError):  # the package agrees that it is bad
        safetensors.safe_open(path, "np")


def test_absent_files_and_pipes(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with pytest.raises(FirstlightError) as caught:
            SafetensorsFile(tmp_path / name, family="F5")
        assert caught.value.code == "F520"


def test_file_that_shrinks_after_opening(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a", {"a": entry()}, b"1234")
    file = SafetensorsFile(path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FirstlightError, match="changed size"):
        file.raw(file.tensors["a"])


def test_parse_json_takes_what_is_fine() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "x"]}', where="w", code="F101") == {
        "a": [1, 2.5, None, "x"]
    }


def test_unknown_keys_and_formats_without_numpy(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a", {"a": entry("F4", [8], [0, 4], extra=1)}, b"1234")
    file = SafetensorsFile(path)
    assert file.raw(file.tensors["a"]).size == 4
    with pytest.raises(FirstlightError, match="F4"):
        file.array(file.tensors["a"])
