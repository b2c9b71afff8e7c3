"""A compiled model, loaded: its code, its weights, and the sessions that use them."""

from __future__ import annotations

import os
import threading
import weakref
from functools import cached_property
from typing import Any

from firstlight.runtime.engine import Engine, find_launcher
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.graph import GraphModel
from firstlight.runtime.manifest import Manifest, Verify, check_files, read_manifest
from firstlight.runtime.paths import checked_path
from firstlight.runtime.program import Program, read_program
from firstlight.runtime.session import Session
from firstlight.runtime.snapshot import read_snapshot
from firstlight.runtime.text import Tokenizer


def load(
    directory: str | os.PathLike[str], threads: int | None = None, verify: Verify = "quick"
) -> Any:
    """Load a compiled artifact; nothing is compiled and no weight is read yet.

    Args:
        directory: what ``firstlight compile -o`` wrote.
        threads: threads of one session's kernels, by default the cores this process may use.
        verify: "quick" checks the manifest, the hash of every file but the weights', and their
            sizes and headers; True hashes everything; False checks sizes only.

    Returns a `Model`, or a `GraphModel` for what was compiled from ONNX.

    Raises F501 to F504 for a folder that is no whole artifact, F510 for another CPU, F511 to F514
    if its code or threads cannot be had.

    >>> with load("artifacts/tiny-v4") as model:                           # doctest: +SKIP
    ...     ids = model.tokenizer.encode("def main():")
    ...     print(model.tokenizer.decode(model.session().generate(ids, max_new_tokens=32)))
    """
    # 1 equals True but is not: a check that follows would take it for neither.
    if type(verify) is not bool and not (isinstance(verify, str) and verify == "quick"):
        raise FirstlightError(
            "F505",
            f"verify={verify!r} cannot be used",
            where="load(verify=...)",
            why='it must be "quick", True or False',
            try_='load(directory, verify="quick")',
        )
    manifest = read_manifest(checked_path(directory, "F501", "the artifact"))
    check_files(manifest, verify)
    program = read_program(manifest)
    engine = find_launcher(manifest.launcher).open_engine(manifest, program, threads)
    if manifest.graph is not None:
        return GraphModel(manifest, program, engine)
    return Model(manifest, program, engine)


class Model:
    """Weights and code of an artifact, shared by its sessions. Made by ``load``."""

    def __init__(self, manifest: Manifest, program: Program, engine: Engine) -> None:
        self.manifest = manifest
        self.program = program
        self.engine = engine
        self.vocab_size = manifest.vocab_size
        self.context = manifest.context
        self.eos_token_ids = manifest.eos_token_ids
        self.bos_token_id = manifest.bos_token_id
        self._closed = False
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    @property
    def name(self) -> str:
        """The model's name, from the checkpoint."""
        return self.manifest.name

    @property
    def threads(self) -> int:
        """Threads one session's kernels use."""
        return self.engine.threads

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. Raises F630 if the artifact has none."""
        return Tokenizer(self.manifest.directory / "tokenizer.json")

    def session(self) -> Session:
        """A new, empty sequence. Raises F601 after ``close``, F514 without memory for it."""
        with self._lock:
            if self._closed:
                raise FirstlightError(
                    "F601",
                    "this model is closed",
                    where=str(self.manifest.directory),
                    why="model.close() was called",
                    try_="load(directory) again",
                )
            session = Session(self, self.engine.context())
            self._sessions.add(session)
            return session

    def restore(self, path: str | os.PathLike[str]) -> Session:
        """The session that ``Session.save`` wrote; it continues bit for bit.

        Raises F520 to F524 for an unreadable file, F641 for one of another artifact, F642 for a
        damaged one.
        """
        file = checked_path(path, "F520", "the saved session")
        session = self.session()
        try:
            read_snapshot(file, self.manifest, session._open_context())
        except BaseException:
            session.close()
            raise
        return session

    def close(self) -> None:
        """Close all sessions and stop the threads. Raises F602 while a session is running."""
        with self._lock:
            for session in list(self._sessions):
                session.close()
            if not self._closed:
                self._closed = True
                self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
