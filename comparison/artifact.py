"""A compiled artifact, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from firstlight.comparison.side import Event, Key, numbered
from firstlight.ir.rows import decode
from firstlight.runtime import load
from firstlight.runtime.trace import Tracer


class ArtifactSide:
    """An artifact's program as it runs; its weights are not verified: that is `verify`'s work.

    Raises what `firstlight.runtime.load` raises, and F613 if it cannot be traced.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.name = str(folder)
        self.model = load(folder, threads=threads, verify=False)
        manifest = self.model.manifest
        self.document = manifest.document
        self.vocab_size = manifest.vocab_size
        self.context: int | None = manifest.context
        self.chunk: int | None = manifest.chunk
        self.tokenizer = manifest.directory / "tokenizer.json"
        self._tracer = Tracer(self.model)
        self._session = self.model.session()

    def keys(self, entry: str) -> list[Key]:
        """See `Side.keys`."""
        return numbered((row.path, row.op) for row in self._tracer.rows[entry])

    def run(self, entry: str, ids: Sequence[int]) -> Iterator[Event]:
        """See `Side.run`."""
        keys = self.keys(entry)
        feed = self._tracer.feed(self._session, entry, ids)
        for key, (row, values) in zip(keys, feed, strict=True):
            states = (self._tracer.state(result) for result in row.results)
            values = tuple(
                value if state is None or state.codec == "f32"
                else decode(value, state.width, state.codec)
                for state, value in zip(states, values, strict=True))
            yield Event(key, values, tuple((keys[i], result) for i, result in row.inputs))

    def close(self) -> None:
        """See `Side.close`."""
        self.model.close()
