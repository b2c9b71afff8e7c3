"""Writing weights: packed piece by piece as they are read, so memory does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.apart import Died
from firstlight.codegen.program import Stored
from firstlight.codegen.side_by_side import side_by_side
from firstlight.codegen.signature import packed_specs
from firstlight.codegen.target import Packer
from firstlight.ir.types import CODECS
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import SafetensorsWriter, TensorPlan, Written

Array = NDArray[Any]
PIECE_BYTES = 16 << 20
ROW_TILE = 128
DTYPES = {"uint8": "U8", "uint16": "U16", "float32": "F32", "int32": "I32", "int64": "I64",
          "float16": "F16", "bool": "BOOL"}


@dataclass
class Lost:
    """Squares of weights and of what rounding changed, summed."""

    squares: float = 0.0
    errors: float = 0.0

    def add(self, other: Lost) -> None:
        """More weights."""
        self.squares += other.squares
        self.errors += other.errors

    @property
    def rms(self) -> float:
        """The error as a part of the weights, root mean square."""
        return float(np.sqrt(self.errors / self.squares)) if self.squares else 0.0


class Source(Protocol):
    """A weight as its checkpoint holds it. One in another codec has `lost`, too (`lost_by`)."""

    shape: tuple[int, ...]
    codec: str

    def pieces(self, rows: int) -> Iterator[tuple[int, Array, Array | None]]:
        """(first row, codes, scales) of at most `rows` rows of one matrix at a time.

        fp8 scales are always those of the whole matrix, whose grid does not follow the rows.
        """
        ...


News = int | Written | tuple[str, Lost]
"""Bytes written, a file's end, what a weight lost."""


def lost_by(source: Source | None) -> Lost | None:
    """What a weight in another codec than its checkpoint's has lost so far; None for others."""
    lost: Lost | None = getattr(source, "lost", None)
    return lost


def write_weights(folder: Path, stored: Sequence[Stored], sources: Mapping[str, Source],
                  constants: Mapping[str, Array], packer: Packer | None,
                  progress: Callable[[int, int], None], jobs: int | None = None,
                  ) -> dict[str, Written]:
    """Write every weight file of an artifact; returns what was written by file name. What weights
    lost is in their sources then.

    Args:
        folder: the artifact's folder.
        stored: weights and layouts, `constants` among them.
        progress: called with bytes written and bytes in all.
        jobs: processes; by default one for each usable core.
    """
    plans = {item: _plan(item, sources, constants, packer) for item in sorted(stored)}
    files: dict[str, list[Stored]] = {}
    for item in plans:
        files.setdefault(item.file, []).append(item)
    sizes = {name: sum(p.nbytes for item in items for p in plans[item])
             for name, items in files.items()}
    total, finished = sum(sizes.values()), 0
    written: dict[str, Written] = {}

    def write(name: str) -> Iterator[News]:
        with SafetensorsWriter(folder / name, [p for i in files[name] for p in plans[i]]) as out:
            for item in files[name]:
                _write(out, item, plans[item], sources, constants, packer)
                yield sum(p.nbytes for p in plans[item])
                if (lost := lost_by(sources.get(item.weight))) is not None:
                    yield item.weight, lost
        assert out.written is not None
        yield out.written

    def tell(name: str, news: News) -> None:
        nonlocal finished
        if isinstance(news, Written):
            written[name] = news
        elif isinstance(news, tuple):
            weight, theirs = news
            if (own := lost_by(sources[weight])) is not None:       # here, or of another process
                own.squares, own.errors = theirs.squares, theirs.errors
        else:
            finished += news
            progress(min(finished, total), total)        # a file that failed is begun again

    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
    try:
        side_by_side(write, sorted(files, key=lambda name: (-sizes[name], name)), tell, jobs)
    except Died as e:
        raise FirstlightError(
            "F421", "the artifact cannot be written", where="weights", why=str(e),
            try_="a machine with free memory (signal 9), a checkpoint that can be read (7)",
        ) from e
    return dict(sorted(written.items()))


def _plan(item: Stored, sources: Mapping[str, Source], constants: Mapping[str, Array],
          packer: Packer | None) -> list[TensorPlan]:
    if item.weight in constants:
        array = constants[item.weight]
        return [TensorPlan(item.name, DTYPES[str(array.dtype)], array.shape)]
    source = sources[item.weight]
    codes, scales = packed_specs(item.layout, source.codec, source.shape, packer)
    plans = [TensorPlan(item.name, DTYPES[codes[1]], codes[0])]
    if scales is not None:
        plans.append(TensorPlan(f"{item.name}.scales", DTYPES[scales[1]], scales[0]))
    return plans


def _write(out: SafetensorsWriter, item: Stored, plan: list[TensorPlan],
           sources: Mapping[str, Source], constants: Mapping[str, Array],
           packer: Packer | None) -> None:
    if item.weight in constants:
        out.write(item.name, constants[item.weight])
        return
    source, scales_kept = sources[item.weight], list[Array]()

    def pieces() -> Iterator[Array]:
        """Codes one after the other; scales (a thirtieth of the bytes) wait for their turn."""
        columns = source.shape[-1] if source.shape else 1
        rows = max(1, PIECE_BYTES // (4 * columns) // ROW_TILE) * ROW_TILE
        if item.layout:
            assert packer is not None
            rows = rows if packer.by_rows(item.layout) else 1 << 62
        for first, codes, scales in source.pieces(rows):
            if item.layout:
                assert packer is not None
                codes, scales = packer.pack(item.layout, codes, scales, source.codec,
                                            (len(codes), columns), first)
                if scales is not None:
                    scales_kept.append(scales)
            elif scales is not None and (CODECS[source.codec].block[0] == 1 or first == 0):
                scales_kept.append(np.ascontiguousarray(scales))
            yield codes

    out.write(item.name, pieces())
    if len(plan) > 1:
        out.write(f"{item.name}.scales", iter(scales_kept))
