"""Weight files: what is packed in pieces is what is packed whole, and memory stays small."""

import os
import signal
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen import weights
from firstlight.codegen.program import Stored
from firstlight.codegen.signature import packed_specs
from firstlight.codegen.weights import write_weights
from firstlight.compiler import _Pieces
from firstlight.frontend.checkpoint import read_checkpoint
from firstlight.ir.codecs import GROUPED
from firstlight.ir.types import CODECS as FORMATS
from firstlight.ir.types import REAL
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import SafetensorsFile
from firstlight.targets.cpu.kernels.layouts import PLAIN, grouped, unpack
from firstlight.targets.cpu.packer import TilePacker
from support.packed import CODECS, FP8, random_weight
from support.random_models import random_config, random_tensors, write_checkpoint

PACKER = TilePacker()


@dataclass
class InMemory:
    """A source as the compiler gives it: matrices one after the other, fp8 scales whole."""

    codes: np.ndarray
    scales: np.ndarray | None
    codec: str
    shape: tuple[int, ...]

    def pieces(self, rows: int) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        stacked = len(self.shape) == 3
        for e in range(self.shape[0] if stacked else 1):
            codes = self.codes[e] if stacked else self.codes
            scales = self.scales[e] if stacked and self.scales is not None else self.scales
            for first in range(0, len(codes), rows):
                part = slice(first, first + rows)
                own = scales if scales is None or self.codec == FP8 else scales[part]
                yield first, codes[part], own


def written(folder: Path, item: Stored, source: InMemory) -> dict[str, np.ndarray]:
    """The tensors of one weight, as its file holds them."""
    folder.mkdir()
    write_weights(folder, [item], {item.weight: source}, {}, PACKER, lambda done, total: None)
    file = SafetensorsFile(folder / item.file)
    return {name: file.array(info).copy() for name, info in file.tensors.items()}


def source_of(codec: str, shape: tuple[int, ...]) -> InMemory:
    """Random codes of a matrix, a stack of them, or (without scales) a vector."""
    rng = np.random.default_rng(sum(shape))
    weight = random_weight(rng, codec, shape if len(shape) > 1 else (1, *shape))
    return InMemory(weight.codes.reshape(shape) if len(shape) == 1 else weight.codes,
                    weight.scales, codec, shape)  # fmt: skip


SHAPES = [(16, 32), (1, 64), (300, 96), (130, 256), (17, 160), (3, 40, 64), (2, 129, 32)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_in_pieces_is_packed_whole(codec, shape, tmp_path, monkeypatch):
    """Matrices and stacks of experts, in pieces of 128 rows: neither a tile nor a scale moves."""
    source, item = source_of(codec, shape), Stored("layers.3.w", PLAIN)
    monkeypatch.setattr(weights, "PIECE_BYTES", 1)
    tensors = written(tmp_path / "a", item, source)
    codes, scales = PACKER.pack(PLAIN, source.codes, source.scales, codec, shape)
    np.testing.assert_array_equal(tensors[item.name], codes.reshape(tensors[item.name].shape))
    assert (f"{item.name}.scales" in tensors) == (scales is not None)
    if scales is not None:
        np.testing.assert_array_equal(tensors[f"{item.name}.scales"], scales)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("groups", "shape"), [(1, (20, 32)), (2, (144, 96)), (5, (650, 64))])
def test_grouped_matrices_are_packed_whole(codec, groups, shape, tmp_path, monkeypatch):
    """Every group begins a tile, the scale grid ignores the groups."""
    source, layout = source_of(codec, shape), grouped(groups)
    item = Stored("layers.0.attn.wo_a.weight", layout)
    monkeypatch.setattr(weights, "PIECE_BYTES", 1)
    tensors = written(tmp_path / "a", item, source)
    codes, scales = PACKER.pack(layout, source.codes, source.scales, codec, shape)
    np.testing.assert_array_equal(tensors[item.name], codes)
    elements, per_row = unpack(layout, codes, scales, codec, shape)
    if codec not in GROUPED:
        np.testing.assert_array_equal(elements.reshape(shape), source.codes.view(elements.dtype))
    if codec == FP8:
        assert per_row is not None
        assert source.scales is not None
        rows = np.arange(shape[0]) // 128
        np.testing.assert_array_equal(per_row.reshape(shape[0], -1), source.scales[rows])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(300,), (300, 96), (2, 130, 64)], ids=str)
def test_as_shipped_is_the_checkpoints_bytes(codec, shape, tmp_path, monkeypatch):
    """Without a layout nothing is packed, and a vector may come in pieces, too."""
    if len(shape) == 1 and (codec in GROUPED or codec == FP8):
        pytest.skip("vectors have no scales")
    source, item = source_of(codec, shape), Stored("head.weight")
    monkeypatch.setattr(weights, "PIECE_BYTES", 1)
    tensors = written(tmp_path / "a", item, source)
    assert tensors.pop("head.weight").tobytes() == source.codes.tobytes()
    if source.scales is not None:
        assert tensors.pop("head.weight.scales").tobytes() == source.scales.tobytes()
    assert tensors == {}


@pytest.mark.parametrize("codec", [*CODECS, "i64", "i32"])
def test_plans_have_the_sizes_of_what_is_written(codec, tmp_path):
    """Shapes are known before anything is read; a wrong one would stop the writer."""
    shape = (150, 96)
    if codec not in REAL:
        codes = np.arange(150 * 96, dtype=FORMATS[codec].codes).reshape(shape)
        source = InMemory(codes, None, codec, shape)
    else:
        source = source_of(codec, shape)
    (shipped, dtype), scales = packed_specs("", codec, shape, None)
    tensors = written(tmp_path / "a", Stored("x"), source)
    assert tensors["x"].shape == shipped
    assert tensors["x"].itemsize == np.dtype(dtype).itemsize
    assert (None if scales is None else scales[0]) == (
        tensors["x.scales"].shape if "x.scales" in tensors else None)  # fmt: skip


def test_files_by_layer_sorted_by_name_whatever_the_order(tmp_path):
    """One file for each layer and one for the rest; progress counts to the total."""
    sources = {n: source_of("f32", (16, 4)) for n in ("head", "layers.10.a", "layers.2.b", "embed")}
    constants = {"constant.c": np.arange(3, dtype=np.int32)}
    items = [Stored(n) for n in (*sources, *constants)] + [Stored("layers.2.b", PLAIN)]
    seen, contents = [], []
    for order, jobs in ((items, 1), (items[::-1], 3)):
        folder = tmp_path / str(len(contents))
        folder.mkdir()
        done = write_weights(folder, order, sources, constants, PACKER,
                             lambda done, total: seen.append((done, total)), jobs)  # fmt: skip
        contents.append({name: (folder / name).read_bytes() for name in done})
        assert all(len(contents[-1][name]) == w.bytes for name, w in done.items())
    assert contents[0] == contents[1]
    assert list(contents[0]) == [
        f"weights/{n}.safetensors" for n in ("global", "layers.10", "layers.2")]  # fmt: skip
    assert [done == total for done, total in seen] == ([False] * (len(items) - 1) + [True]) * 2
    layer = SafetensorsFile(tmp_path / "0" / "weights/layers.2.safetensors")
    assert list(layer.tensors) == ["layers.2.b", f"layers.2.b@{PLAIN}"]
    assert all(t.offset % 64 == 0 for t in layer.tensors.values())


class Broken:
    """A weight that cannot be read, one way or another."""

    shape, codec = (16, 4), "f32"

    def __init__(self, read):
        self.read = read

    def pieces(self, rows):
        self.read()
        yield 0, np.zeros(self.shape, np.float32), None


def unreadable():
    raise OSError("the disk is gone")


@pytest.mark.parametrize(("read", "error", "says"), [
    (unreadable, OSError, "the disk is gone"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), FirstlightError, "ended by signal 9"),
])  # fmt: skip
def test_what_goes_wrong_beside_is_said_here(read, error, says, tmp_path, capfd):
    sources = {n: source_of("f32", (16, 4)) for n in ("layers.0.a", "layers.1.a", "layers.2.a")}
    sources["layers.1.a"] = Broken(read)
    with pytest.raises(error, match=says):
        write_weights(tmp_path, [Stored(n) for n in sources], sources, {}, PACKER,
                      lambda done, total: None, 2)  # fmt: skip
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("codecs", ["released", "fp8", "bf16"])
def test_the_pieces_of_a_checkpoint_are_the_whole_weight(codecs, tmp_path):
    """`compiler._Pieces`: any number of rows at a time, experts one after the other."""
    config = random_config(1, layers="w", hidden_size=160, moe_intermediate_size=32,
                           num_hash_layers=1, q_lora_rank=130)  # fmt: skip
    folder = write_checkpoint(tmp_path, config, random_tensors(config, 1, codecs))
    for ref in read_checkpoint(folder).tensors.values():
        source = _Pieces(ref)
        for rows in (1 << 62, 128, 7):
            pieces = list(source.pieces(rows))
            assert b"".join(c.tobytes() for _, c, _ in pieces) == ref.codes().tobytes()
            whole = ref.scales()
            if whole is not None and source.codec in GROUPED:
                assert b"".join(s.tobytes() for *_, s in pieces if s is not None) == whole.tobytes()
            elif whole is not None:
                firsts = [s for first, _, s in pieces if first == 0]
                assert b"".join(s.tobytes() for s in firsts if s is not None) == whole.tobytes()


@dataclass
class Endless:
    """600 MB of fp8 that exist one piece at a time."""

    shape: tuple[int, ...] = (150_016, 4096)
    codec: str = FP8

    def pieces(self, rows: int) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        grid = np.full((self.shape[0] // 128, self.shape[1] // 128), 120, np.uint8)
        piece = np.zeros((rows, self.shape[1]), np.uint8)
        for first in range(0, self.shape[0], rows):
            yield first, piece[: min(rows, self.shape[0] - first)], grid


def test_memory_does_not_grow_with_the_weights(tmp_path, monkeypatch):
    """Packing 600 MB takes what a few pieces take. The disk is left out."""
    class Nowhere(weights.SafetensorsWriter):
        def _emit(self, data: bytes | np.ndarray) -> None:
            self._bytes += len(data)

        def close(self) -> None:
            self._file.close()
            self.written = weights.Written(self._bytes, "", "")

    monkeypatch.setattr(weights, "SafetensorsWriter", Nowhere)
    tracemalloc.start()
    done = write_weights(tmp_path, [Stored("w", PLAIN)], {"w": Endless()}, {}, PACKER,
                         lambda done, total: None)  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done["weights/global.safetensors"].bytes > 600e6
    assert peak < 100e6
