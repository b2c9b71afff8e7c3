"""Read and write safetensors files: checked headers, memory-mapped data, aligned tensors.

A file is `u64 n`, n bytes of JSON (name -> dtype, shape, data_offsets), then data without holes.
Of our own because the `safetensors` package cannot hand out F8_E8M0 as numpy, and because artifacts
need every tensor on a 64-byte boundary; the tests hold both against each other.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from firstlight.runtime.errors import FirstlightError

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}
"""Bits of one element of each dtype the format knows."""

NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
    "C64": "<c8", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
}
"""Numpy dtype of the elements; codes (uint8, uint16) where numpy lacks the number format."""

ALIGN = 64
MAX_HEADER = 100_000_000          # the limit of the format's reference implementation
_PAD = "__pad_"
_BLOCK = 8 << 20                  # bytes hashed and written at once
_SYNC = 256 << 20                 # bytes after which written pages leave the cache
_MAX_ELEMENTS = 1 << 62


class TensorInfo(NamedTuple):
    """Where one tensor lies: `offset` in bytes from the start of the file, `nbytes` long."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def rows(self, start: int, stop: int) -> TensorInfo:
        """Rows [start, stop) of the first axis."""
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        return self._replace(shape=(stop - start, *self.shape[1:]),
                             offset=self.offset + start * row, nbytes=(stop - start) * row)

    def reshape(self, *shape: int) -> TensorInfo:
        """The same bytes under another shape."""
        assert math.prod(shape) == math.prod(self.shape)
        return self._replace(shape=shape)


class SafetensorsFile:
    """One file, its header checked on construction and its data mapped when first asked for.

    `family` is the first two characters of the error codes: "F1" for checkpoints, "F5" for
    artifacts. `random` maps without read-ahead, for files of which a part is read (`will_need`).
    `tensors` is in file order and leaves out the fillers our writer adds.
    Errors (x = family): x20 unreadable, x21 cut short or lying about its size, x22 header is no
    JSON object, x23 a tensor's entry is wrong, x24 holes or overlaps.
    """

    def __init__(self, path: str | os.PathLike[str], family: str = "F1",
                 random: bool = False) -> None:
        self.path = Path(path)
        self.family = family
        self._random = random
        self._map: mmap.mmap | None = None
        header = self._read_header()
        self.header_sha256 = hashlib.sha256(header).hexdigest()
        self.data_offset = len(header)
        entries = parse_json(header[8:], where=str(self.path), code=f"{family}22")
        metadata = entries.pop("__metadata__", {})
        if not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
            self._refuse("22", "__metadata__ is not a table of strings",
                         "the format allows only strings there")
        self.metadata: dict[str, str] = metadata
        infos = self._place([self._entry(name, entry) for name, entry in entries.items()])
        self.tensors: dict[str, TensorInfo] = {
            t.name: t for t in infos if not t.name.startswith(_PAD)}

    def raw(self, info: TensorInfo) -> NDArray[np.uint8]:
        """The bytes of a tensor as a read-only uint8 [nbytes] view of the file: no copy."""
        if info.nbytes == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(self._mapped(), np.uint8, info.nbytes, info.offset)

    def array(self, info: TensorInfo) -> NDArray[Any]:
        """The tensor as a read-only array view; F8 dtypes as uint8 codes, BF16 as uint16 codes."""
        if info.dtype not in NUMPY:
            self._refuse("23", f"{info.name} has dtype {info.dtype}", "numpy has no array of it")
        return self.raw(info).view(NUMPY[info.dtype]).reshape(info.shape)

    def will_need(self, info: TensorInfo) -> None:
        """Ask the system to read this tensor ahead."""
        self._advise(info, mmap.MADV_WILLNEED)

    def release(self, info: TensorInfo) -> None:
        """Unmap the tensor's pages after streaming it; reading them again is legal."""
        self._advise(info, mmap.MADV_DONTNEED)

    def _advise(self, info: TensorInfo, advice: int) -> None:
        if info.nbytes:
            start = info.offset // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapped().madvise(advice, start, info.offset + info.nbytes - start)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != self.size:
                    self._refuse("21", "the file changed size after it was opened",
                                 "something else writes to it")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if self._random:    # default read-ahead: 8 MB and 17 ms for each touched page
                self._map.madvise(mmap.MADV_RANDOM)
        return self._map

    def _read_header(self) -> bytes:
        if not self.path.is_file():           # also refuses a pipe, which would block for ever
            self._refuse("20", "not a file", "there is no regular file of this name")
        try:
            with self.path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                start = file.read(8)
                if len(start) < 8:
                    self._refuse("21", f"the file has {self.size} bytes",
                                 "a safetensors file begins with 8 bytes of header length")
                length = struct.unpack("<Q", start)[0]
                if length > MAX_HEADER:
                    self._refuse("21", f"the header claims {length} bytes",
                                 f"the format allows {MAX_HEADER}: this is no safetensors file")
                if length > self.size - 8:
                    self._refuse("21", f"the header claims {length} bytes",
                                 f"only {self.size - 8} bytes follow: the file is cut short")
                return start + file.read(length)
        except OSError as e:
            self._refuse("20", "the file cannot be read", str(e))

    def _entry(self, name: str, entry: object) -> TensorInfo:
        match entry:
            case {"dtype": str(dtype), "shape": list(dims), "data_offsets": [begin, end]}:
                pass
            case _:
                self._refuse("23", f"the entry of {name[:200]!r} is malformed",
                             "it needs dtype, shape and two data_offsets")
        label = repr(name[:200])
        if dtype not in BITS:
            self._refuse("23", f"{label} has the unknown dtype {dtype[:40]!r}",
                         "known are " + ", ".join(BITS))
        if len(dims) > 32 or not all(type(d) is int and 0 <= d < _MAX_ELEMENTS
                                     for d in (*dims, begin, end)):
            self._refuse("23", f"{label} has an impossible shape or place",
                         "sizes and data_offsets are whole numbers >= 0")
        bits = BITS[dtype] * math.prod(dims)
        if begin > end or bits != 8 * (end - begin):
            self._refuse("23", f"{label} lies at [{begin}, {end})",
                         f"its dtype {dtype} and shape {dims} make {bits // 8} bytes")
        return TensorInfo(name, sys.intern(dtype), tuple(dims), begin + self.data_offset,
                          end - begin)

    def _place(self, infos: list[TensorInfo]) -> list[TensorInfo]:
        """Sort by place in the file; every byte of data must belong to exactly one tensor."""
        infos.sort(key=lambda t: (t.offset, t.nbytes))
        at = self.data_offset
        for t in infos:
            if t.offset != at:
                self._refuse("24", f"{t.name[:200]!r} begins at byte {t.offset}, {at} was expected",
                             "tensors must follow one another without overlap or hole")
            at += t.nbytes
        if at != self.size:
            self._refuse("21", f"the file has {self.size} bytes, its header describes {at}",
                         "the file is cut short" if at > self.size else "bytes follow the tensors")
        return infos

    def _refuse(self, number: str, what: str, why: str) -> NoReturn:
        raise FirstlightError(self.family + number, what, where=str(self.path), why=why,
                              try_="fetch or write this file again")


def parse_json(text: bytes, *, where: str, code: str) -> dict[str, Any]:
    """A JSON object from untrusted bytes; FirstlightError `code` if it is anything else.

    Refuses repeated keys, and nesting or brackets in masses before they cost memory.
    """
    def refuse(why: str) -> NoReturn:
        raise FirstlightError(code, "not a usable JSON object", where=where, why=why,
                              try_="compare with the original file; it may be damaged")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            twice = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
            refuse(f"the key {twice[:200]!r} appears twice")
        return table

    # An honest header has an object and two lists per ~60 bytes; "[],[],..." costs 20x its size.
    if len(text) > 1 << 20 and text.count(b"[") + text.count(b"{") > len(text) // 8:
        refuse("it consists mostly of brackets")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        refuse("it is nested too deeply")
    except ValueError as e:                    # also UnicodeDecodeError and over-long integers
        refuse(str(e))
    if not isinstance(value, dict):
        refuse(f"the top level is a {type(value).__name__}")
    return value


class TensorPlan(NamedTuple):
    """A tensor that will be written: name, safetensors dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return BITS[self.dtype] * math.prod(self.shape) // 8


@dataclass(frozen=True)
class Written:
    """What a finished file is: size in bytes, SHA-256 of all of it and of its header."""

    bytes: int
    sha256: str
    header_sha256: str


class SafetensorsWriter:
    """Write a file tensor by tensor, in the order of `plan`, hashing on the way.

    Every tensor begins on a multiple of `align` bytes; where a size is odd, a U8 tensor named
    `__pad_k` fills the hole, because the format refuses holes. The same plan and data give the
    same bytes. Memory is bounded by what the caller hands over.

    >>> import numpy as np, tempfile
    >>> name = tempfile.NamedTemporaryFile(suffix=".safetensors").name
    >>> with SafetensorsWriter(name, [TensorPlan("a", "F32", (3,))]) as out:
    ...     out.write("a", np.ones(3, np.float32))
    >>> out.written.bytes % 64
    12
    """

    def __init__(self, path: str | os.PathLike[str], plan: Sequence[TensorPlan],
                 metadata: Mapping[str, str] | None = None, align: int = ALIGN) -> None:
        self.path = Path(path)
        self.plan = list(plan)
        self.written: Written | None = None
        self._align = align
        self._next = 0
        self._hash = hashlib.sha256()
        self._bytes = self._synced = 0
        header = self._header(metadata or {})
        self._header_sha256 = hashlib.sha256(header).hexdigest()
        self._file = self.path.open("wb", buffering=0)
        self._emit(header)

    def write(self, name: str, data: NDArray[Any] | Iterable[NDArray[Any]]) -> None:
        """Append the data of the plan's next tensor: one array, or its parts in order."""
        if self._next >= len(self.plan) or self.plan[self._next].name != name:
            raise ValueError(f"{name} is not the next tensor of the plan")
        want, begin = self.plan[self._next].nbytes, self._bytes
        for part in (data,) if isinstance(data, np.ndarray) else data:
            self._emit(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        if self._bytes - begin != want:
            raise ValueError(f"{name}: {self._bytes - begin} bytes given, {want} planned")
        self._next += 1
        if self._next < len(self.plan):
            self._emit(bytes(-want % self._align))

    def close(self) -> Written:
        """Finish the file and flush it to the disk."""
        if self._next != len(self.plan):
            raise ValueError(f"{self.plan[self._next].name} was planned and not written")
        os.fsync(self._file.fileno())
        self._file.close()
        self.written = Written(self._bytes, self._hash.hexdigest(), self._header_sha256)
        return self.written

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        entries: dict[str, Any] = {}
        if metadata:
            entries["__metadata__"] = dict(sorted(metadata.items()))
        at = 0
        for k, t in enumerate(self.plan):
            if t.name in entries:
                raise ValueError(f"{t.name} is planned twice")
            entries[t.name] = {"dtype": t.dtype, "shape": list(t.shape),
                               "data_offsets": [at, at + t.nbytes]}
            at += t.nbytes
            pad = -at % self._align
            if pad and k + 1 < len(self.plan):
                entries[f"{_PAD}{k}"] = {"dtype": "U8", "shape": [pad],
                                         "data_offsets": [at, at + pad]}
                at += pad
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-(8 + len(text)) % self._align)
        return struct.pack("<Q", len(text)) + text

    def _emit(self, data: bytes | NDArray[np.uint8]) -> None:
        view = memoryview(data)  # type: ignore[arg-type]  # numpy arrays are buffers
        for start in range(0, len(view), _BLOCK):
            block = view[start:start + _BLOCK]
            self._hash.update(block)
            while len(block):
                block = block[self._file.write(block):]
        self._bytes += len(view)
        if self._bytes - self._synced >= _SYNC:   # dirty pages throttle and count as memory
            os.fdatasync(self._file.fileno())
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._synced = self._bytes
