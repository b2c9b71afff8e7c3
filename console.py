"""What the commands share: documents for people or machines, progress, options, exit statuses."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from firstlight.runtime.errors import FirstlightError
from firstlight.targets import COMPILER_PACKAGES

FOLDER = click.Path(path_type=Path)
STATUSES = """\b
Exit status:
  0    done
  1    an input was refused: the four lines on standard error say what, where, why, what to try
  2    the command line is wrong
  70   a bug in firstlight (FIRSTLIGHT_DEBUG=1 shows the traceback)
  130  interrupted by Ctrl+C
  141  the reader of our output went away
  143  ended by SIGTERM
"""

_BEAT = 10.0
"""Seconds between two plain progress lines of one stage."""


def size(nbytes: float) -> str:
    """Bytes in the unit a person would choose.

    >>> size(600), size(13_000_000), size(865e9)
    ('600 B', '13.0 MB', '865.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def render(document: Mapping[str, Any]) -> str:
    """A JSON-like document as text: plain values first, then a section for each nested one.

    Records of the same fields become a table, counts inside a section one line. Keys that end in
    "bytes" are printed as sizes.
    """
    return "\n".join(_lines(document, ""))


def _lines(document: Mapping[str, Any], indent: str) -> Iterator[str]:
    flat = {k: v for k, v in document.items() if not _nested(v) or (indent and _counts(v))}
    width = max((len(_words(k)) for k in flat), default=0) + 2
    for key, value in flat.items():
        yield f"{indent}{_words(key):{width}}{_text(key, value)}".rstrip()
    for key, value in document.items():
        if key in flat:
            continue
        if not indent:
            yield ""
        yield f"{indent}{_words(key)}"
        if isinstance(value, Mapping) and _alike(value):
            yield from _table([{"name": k, **row} for k, row in value.items()], indent + "  ")
        elif isinstance(value, Mapping):
            yield from _lines(value, indent + "  ")
        else:
            yield from _table(value, indent + "  ")


def _nested(value: Any) -> bool:
    return bool(value) and (
        isinstance(value, Mapping)
        or (isinstance(value, Sequence) and all(isinstance(row, Mapping) for row in value))
    )


def _alike(value: Mapping[str, Any]) -> bool:
    """Whether these are records of the same fields, under names."""
    rows = list(value.values())
    return all(isinstance(row, Mapping) and row.keys() == rows[0].keys() for row in rows)


def _counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(n) is int for n in value.values())


def _table(rows: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_words(c) for c in columns]]
    cells += [[_text(c, row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(type(row.get(c, 0)) in (int, float) for row in rows) for c in columns]
    for line in cells:
        padded = (
            cell.rjust(w) if right else cell.ljust(w)
            for cell, w, right in zip(line, widths, numeric, strict=True)
        )
        yield (indent + "  ".join(padded)).rstrip()


def _words(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def _text(key: str, value: Any) -> str:
    if value is None or value in ((), [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float() if "bytes" in key:
            return size(value)
        case float():
            return f"{value:.4g}"
        case dict():
            return ", ".join(f"{name} {n}" for name, n in value.items())
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(value)


class Progress:
    """Progress by stage on standard error: bars on a terminal, now and then a line elsewhere.

    Call it with (stage, done, total); a stage ends when the next begins. Use it as a context.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stage = ""
        self._total = 0
        self._began = self._spoke = time.monotonic()
        self._bars: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if stage != self._stage:
            self._finish()
            self._begin(stage, total)
        self._total = total
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._spoke > _BEAT:
            self._say(f"{stage}: {100 * done // max(total, 1)} %")

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description:9}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        if self._bars is not None:
            self._bars.stop()

    def _begin(self, stage: str, total: int) -> None:
        self._stage, self._began = stage, time.monotonic()
        if self._bars is not None:
            self._task = self._bars.add_task(stage, total=total)

    def _finish(self) -> None:
        if not self._stage:
            return
        if self._bars is not None:
            self._bars.update(self._task, completed=self._total)
        else:
            self._say(f"{self._stage}: done in {time.monotonic() - self._began:.1f} s")

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        click.echo(line, err=True)


def new_file(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Callback of an option that names a file to write. Raises F714, before hours of work, for one
    that cannot be written."""
    if path is None:
        return None
    folder = path.absolute().parent
    why = ("it is a folder" if path.is_dir() else
           f"there is no folder {folder}" if not folder.is_dir() else
           "it may not be written" if not os.access(path if path.exists() else folder, os.W_OK)
           else "")
    if why:
        name = option.opts[-1]
        raise FirstlightError("F714", "the result could not be written", where=f"{name} {path}",
                              why=why, try_=f"{name} with a file in a folder of yours")
    return path


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def emit(document: Mapping[str, Any], as_json: bool) -> None:
    """Print a document, for people or for machines."""
    click.echo(json.dumps(document, indent=1) if as_json else render(document))


@contextmanager
def compiler_needed(command: str) -> Iterator[None]:
    """Turn a missing package of the compiler into F701, which names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in COMPILER_PACKAGES:
            raise
        raise no_compiler(command, missing) from error


def no_compiler(command: str, missing: str) -> FirstlightError:
    """F701: a package of the compiler is missing."""
    return FirstlightError(
        "F701",
        "the compiler is not installed",
        where=f"firstlight {command}",
        why=f"the package {missing!r} is missing (running artifacts does not need it)",
        try_="pip install 'firstlight[compile]'",
    )
