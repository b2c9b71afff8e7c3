"""Open a checkpoint folder: every tensor checked against the config, none of them read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from firstlight.frontend.config import ModelConfig, parse_config
from firstlight.frontend.expected import Expected, expected_tensors
from firstlight.frontend.names import STACKED, canonical, why_left_aside
from firstlight.frontend.shards import find_shards, read_json
from firstlight.frontend.weights import StackedRef, WeightRef
from firstlight.ir.codecs import BLOCK_FP8, FP4_GROUP, FP8_BLOCK, GROUP_FP4
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import SafetensorsFile, TensorInfo

__all__ = ["Checkpoint", "Expected", "StackedRef", "WeightRef", "expected_tensors",
           "read_checkpoint", "read_config"]

PLAIN_CODECS = {"F32": "f32", "BF16": "bf16", "F16": "f16", "I64": "i64", "I32": "i32"}
SCALES = ("F8_E8M0", "U8", "F32", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a model in it.

    `tensors`: released name -> WeightRef, or StackedRef for `layers.i.ffn.experts.w1|w2|w3.weight`.
    `ignored`: names left aside, with the reason. `shards`: file name and bytes.
    """

    path: Path
    config: ModelConfig
    raw_config: Mapping[str, Any]
    tensors: Mapping[str, WeightRef | StackedRef]
    ignored: Mapping[str, str]
    shards: tuple[tuple[str, int], ...]
    tokenizer_path: Path | None
    generation_config: Mapping[str, Any] | None


class _Stored(NamedTuple):
    file: SafetensorsFile
    info: TensorInfo


def read_config(path: str | Path) -> ModelConfig:
    """The configuration of a checkpoint folder (or of a config.json); needs no weights."""
    with _system_errors(path):
        return _read_config(Path(path))[0]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Open a folder with config.json and safetensors files in any of the naming schemes.

    Only headers are read. Errors: F100-F106 config, F110-F115 files, F116 missing, F117
    unexpected, F118 shape, F119 dtype, F12x a file itself, F130 scales.
    """
    with _system_errors(path):
        folder = Path(path).parent if Path(path).is_file() else Path(path)
        config, raw = _read_config(folder)
        stored, ignored, shards = _open(folder, find_shards(folder))
        tensors = _Matcher(folder, config, stored).match()
        tokenizer, generation = folder / "tokenizer.json", folder / "generation_config.json"
        return Checkpoint(
            folder, config, raw, tensors, ignored, shards,
            tokenizer if tokenizer.is_file() else None,
            read_json(generation, "F101") if generation.is_file() else None)


@contextmanager
def _system_errors(path: str | Path) -> Iterator[None]:
    """No permission, a name too long, a disk that fails: said in the same four lines."""
    try:
        yield
    except OSError as e:
        _refuse("F100", "the checkpoint cannot be read", str(e.filename or path)[:500],
                e.strerror or str(e), "check path and permissions")


def _read_config(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".json":
        raise FirstlightError("F100", "this is no checkpoint", where=str(path),
                              why="there is no config.json",
                              try_="give the folder that holds config.json and the weights")
    raw = read_json(file, "F101")
    return parse_config(raw, str(file)), raw


def _open(folder: Path, names: Mapping[str, list[str]]
          ) -> tuple[dict[str, _Stored], dict[str, str], tuple[tuple[str, int], ...]]:
    """All headers: tensors by released name, names left aside, shard sizes."""
    stored: dict[str, _Stored] = {}
    ignored: dict[str, str] = {}
    shards = []
    for shard, listed in names.items():
        file = SafetensorsFile(folder / shard, random=True)
        shards.append((shard, file.size))
        for tensor in listed:
            if tensor not in file.tensors:
                _refuse("F114", f"tensor {tensor[:200]!r} is not in {shard}", str(file.path),
                        "the index says that it is there", "fetch index and shard again")
        for info in file.tensors.values():
            name = canonical(info.name)
            if why := why_left_aside(name):
                ignored[info.name] = why
                continue
            if name in stored:
                other = stored[name]
                _refuse("F115", f"tensor {name[:200]!r} is there twice", str(file.path),
                        f"{other.file.path.name} has it too, as {other.info.name[:200]!r}",
                        "remove one of the files")
            stored[name] = _Stored(file, info)
    return stored, ignored, tuple(shards)


class _Matcher:
    """Takes what the config expects out of what the files hold; nothing may be left over."""

    def __init__(self, folder: Path, config: ModelConfig, stored: dict[str, _Stored]) -> None:
        self.folder, self.config, self.stored = folder, config, stored
        self._unstack()

    def match(self) -> dict[str, WeightRef | StackedRef]:
        """Released name -> reference, for every expected tensor."""
        expected = expected_tensors(self.config)
        missing = [n for name, e in expected.items() for n in _parts(name, e)
                   if n not in self.stored]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            _refuse("F116", f"tensor {missing[0]!r} is missing{more}", str(self.folder),
                    "the config describes a model that has it", "finish the download")
        found: dict[str, WeightRef | StackedRef] = {}
        for name, e in expected.items():
            if ".ffn.experts." in name:
                refs = tuple(self._take(n, e.shape[1:], e.codec) for n in _parts(name, e))
                for ref in refs:
                    if ref.codec != refs[0].codec:
                        self._wrong_dtype(ref.data, ref.file, f"expert 0 is {refs[0].codec}")
                found[name] = StackedRef(name, refs)
            else:
                found[name] = self._take(name, e.shape, e.codec)
        for name, stored in self.stored.items():
            self._unexpected(name, stored)
        return found

    def _unstack(self) -> None:
        """Replace stacked experts by one entry per expert: a slice of the same file."""
        c = self.config
        inner, e = c.moe_intermediate_size, c.n_routed_experts
        for layer in range(c.num_hidden_layers):
            p = f"layers.{layer}.ffn.experts."
            for stacked, matrices in STACKED.items():
                if (t := self.stored.pop(p + stacked, None)) is None:
                    continue
                rows = c.hidden_size if stacked == "down_proj" else inner
                columns = inner if stacked == "down_proj" else c.hidden_size
                want = (e, rows * len(matrices), columns)
                if t.info.shape != want:
                    self._wrong_shape(t.info, t.file, want)
                if t.info.dtype not in ("F32", "BF16", "F16"):
                    self._wrong_dtype(t.info, t.file, "stacked experts are plain floats")
                flat = t.info.reshape(e * rows * len(matrices), columns)
                for i in range(e):
                    for j, matrix in enumerate(matrices):
                        start = (i * len(matrices) + j) * rows
                        name = f"{p}{i}.{matrix}.weight"
                        if name in self.stored:
                            _refuse("F115", f"tensor {name!r} is there twice", str(t.file.path),
                                    f"once alone and once in {t.info.name!r}", "remove one of them")
                        self.stored[name] = _Stored(t.file, flat.rows(start, start + rows))

    def _take(self, name: str, shape: tuple[int, ...], released: str) -> WeightRef:
        """One matrix with its scale, checked; the dtype says the codec, the config never does."""
        file, info = self.stored.pop(name)
        dtype = info.dtype
        if released == "i64":
            if dtype not in ("I64", "I32"):
                self._wrong_dtype(info, file, "this is a table of expert numbers: I64 or I32")
            if info.shape != shape:
                self._wrong_shape(info, file, shape)
            return WeightRef(name, PLAIN_CODECS[dtype], shape, file, info,
                             bound=self.config.n_routed_experts)
        if dtype in ("F32", "BF16", "F16"):
            if info.shape != shape:
                self._wrong_shape(info, file, shape)
            return WeightRef(name, PLAIN_CODECS[dtype], shape, file, info)
        if dtype not in ("F8_E4M3", "I8", "U8") or len(shape) != 2:
            self._wrong_dtype(info, file, "it holds numbers: F32, BF16 or F16, and for a matrix "
                                          "F8_E4M3 or packed FP4 (I8) with scales")
        fp8 = dtype == "F8_E4M3"
        rows, columns = shape
        packed = shape if fp8 else (rows, columns // 2)
        if info.shape != packed or (not fp8 and columns % FP4_GROUP):
            self._wrong_shape(info, file, packed)
        grid = ((-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)) if fp8
                else (rows, columns // FP4_GROUP))
        scale_name = name.removesuffix(".weight") + ".scale"
        if scale_name not in self.stored:
            _refuse("F130", f"{info.name!r} has no scales", str(file.path),
                    f"a {dtype} weight needs {scale_name!r} of shape {list(grid)}",
                    "finish the download")
        scale_file, scale = self.stored.pop(scale_name)
        if scale.shape != grid or scale.dtype not in SCALES:
            _refuse("F130", f"scales {scale.name!r} are {scale.dtype} {list(scale.shape)}",
                    str(scale_file.path),
                    f"{info.name!r} needs F8_E8M0 {list(grid)}: one per "
                    + ("128x128 block" if fp8 else "32 columns"),
                    "a checkpoint with the released block sizes")
        return WeightRef(name, BLOCK_FP8 if fp8 else GROUP_FP4, shape, file, info,
                         scale_file, scale)

    def _unexpected(self, name: str, stored: _Stored) -> NoReturn:
        layer = re.match(r"layers\.([0-9]+)\.", name)
        why = "the config describes a model that has no such tensor"
        if layer and int(layer[1]) >= self.config.num_hidden_layers:
            why = f"the config has {self.config.num_hidden_layers} layers (num_hidden_layers)"
        elif name.endswith(".scale"):
            why = "the weight it belongs to is stored without scales"
        _refuse("F117", f"unexpected tensor {stored.info.name[:200]!r}", str(stored.file.path), why,
                "use the config.json that came with these weights")

    def _wrong_shape(self, info: TensorInfo, file: SafetensorsFile,
                     want: tuple[int, ...]) -> NoReturn:
        _refuse("F118", f"{info.name!r} has shape {list(info.shape)}", str(file.path),
                f"the config makes it {list(want)}",
                "use the config.json that came with these weights")

    def _wrong_dtype(self, info: TensorInfo, file: SafetensorsFile, why: str) -> NoReturn:
        _refuse("F119", f"{info.name!r} is stored as {info.dtype}", str(file.path), why,
                "a checkpoint in a released or dequantised form")


def _parts(name: str, expected: Expected) -> Iterator[str]:
    """The names under which a tensor is stored: one per expert for stacked ones."""
    if ".ffn.experts." not in name:
        yield name
        return
    head, tail = name.split(".experts.")
    for e in range(expected.shape[0]):
        yield f"{head}.experts.{e}.{tail}"


def _refuse(code: str, what: str, where: str, why: str, try_: str) -> NoReturn:
    raise FirstlightError(code, what, where=where, why=why, try_=try_)
