"""``program.bin``: what ``firstlight-run`` needs of an artifact, in a form that C reads in place.

docs/artifact.md describes it byte by byte; runtime/native/runner.c is its reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.runtime.safetensors import SafetensorsFile

MAGIC, VERSION = b"FLPROG\0\0", 1
HEADER_WORDS = 15
"""64-bit words of the header, the magic included."""
NOWHERE = -1
"""The offset of an input that an entry does not have."""


def program_bytes(document: Mapping[str, Any], folder: Path, model: Mapping[str, Any],
                  context: int, state_bytes: int) -> bytes:
    """The content of program.bin.

    Args:
        document: the content of program.json.
        folder: the artifact, whose weight files are written already.
        model: the manifest's `model` section.
        context: most tokens of a sequence.
        state_bytes: size of a session's state block.
    """
    text = _Text()
    files = sorted({file for file, _ in document["weights"]})
    headers = {file: SafetensorsFile(folder / file, "F5") for file in files}
    weights = [(files.index(file), headers[file].tensors[name].offset)
               for file, name in document["weights"]]
    entries, steps, args = [], [], []
    for name, entry in sorted(document["entries"].items()):
        rows = entry["outputs"]["logits"]["shape"][0]
        inputs = [entry["inputs"].get(i, {"offset": NOWHERE})["offset"]
                  for i in ("tokens", "pos", "slot", "last")]
        entries.append((text.add(name), entry["max_tokens"], int(rows != 1), *inputs,
                        entry["outputs"]["logits"]["offset"], len(steps), len(entry["steps"])))
        for kernel, words in entry["steps"]:
            steps.append((kernel, len(args), len(words)))
            args += [(ord(word[0]), int(word[2:] or 0)) for word in words]
    sections = [
        [(token,) for token in model["eos_token_ids"]],
        [(text.add(file), headers[file].size) for file in files],
        weights,
        [(text.add(kernel),) for kernel in document["kernels"]],
        entries, steps, args,
    ]
    tables = b"".join(map(_words, sections))
    counts = [len(section) for section in sections]
    size = 8 * HEADER_WORDS + len(tables) + len(text.data)
    head = [VERSION, size, document["arena_bytes"], state_bytes, model["vocab_size"], context,
            *counts, len(text.data)]
    return MAGIC + _words([head]) + tables + bytes(text.data)


class _Text:
    """Strings, each followed by a zero byte, by their offset."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, word: str) -> int:
        offset = len(self.data)
        self.data += word.encode() + b"\0"
        return offset


def _words(rows: Iterable[Sequence[int]]) -> bytes:
    """Little-endian 64-bit integers."""
    return b"".join(struct.pack(f"<{len(row)}q", *row) for row in rows)
