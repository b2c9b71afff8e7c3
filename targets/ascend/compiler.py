"""The chip's own compiler as a subprocess: MLIR in, a lowered module or a reason out.

`bishengir-compile-a5` of the package ``ascendnpu-ir`` does everything but the last step, for which
it looks for ``hivmc-a5`` of CANN. It then says that it found none, and that its pipeline failed,
*and* has written the lowered module: that, and nothing else, counts as lowered. Results are kept in
the cache folder under a hash of the text, the flags and the compiler.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from firstlight.codegen.cache import Cache, user_cache
from firstlight.runtime.errors import FirstlightError

PACKAGE = "ascendnpu-ir==1.2.0"
KNOWN = {"50ca095eb9cada84b9553e37ff95a9b2987185902c34ae7a904a2e6e3fddc195": "1.2.0, x86_64"}
"""sha256 of the compilers that this target was tried with."""
ONCE = "--enable-tuning-mode"
"""Without it, what fails is tried five times."""
FLAGS = ("-enable-hfusion-compile=true", "-enable-hivm-compile=true",
         "--enable-triton-kernel-compile=true", "--disable-ffts", "--enable-auto-multi-buffer=true",
         ONCE)
LAST = "convert-vector-to-hivmave"
DUMP = (f"--mlir-print-ir-before={LAST}", "--mlir-print-ir-module-scope",
        "--mlir-disable-threading")
LOWERED = "module.hivm.opt.mlir"
MISSING, FAILED = "Cannot find hivmc-a5 under $PATH", "Failed to run BiShengIR pipeline"
SECONDS = 300
HEAD = re.compile(r"^// -----// IR Dump Before .*//----- //.*$", re.M)
PRIVATE = re.compile(r"func\.func private @([A-Za-z_]\w*)\(")
BITCODE = re.compile(r'"[^"]*/(\w[\w.-]*\.bc)"')


@dataclass(frozen=True)
class Lowered:
    """A module in the chip's intrinsics, with addresses planned and synchronised.

    Attributes:
        module: what ``hivmc-a5`` takes; paths of bitcode are relative to the folder ``bitcode``.
        snapshot: the same before the last conversion, while vector code is still upstream MLIR.
    """

    module: str
    snapshot: str

    @property
    def core(self) -> str:
        """What it runs on: "aiv" (vector), "aic" (cube) or "mix" (both, with two entries)."""
        found = re.search(r"hivm\.module_core_type<(\w+)>", self.module)
        return found[1].lower() if found else "aiv"


class TooLarge(FirstlightError):
    """The tiles do not fit the chip's memories together."""


def compiler() -> Path | None:
    """The chip's compiler, from its Python package, if it is installed."""
    found = importlib.util.find_spec("ascendnpuir")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "bin" / "bishengir-compile-a5"
    return path if path.exists() else None


@functools.cache
def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def warning() -> str:
    """What to say about the installed compiler, or ""."""
    path = compiler()
    if path is None or digest(path) in KNOWN:
        return ""
    return (f"{path.name} is not a known one (sha256 {digest(path)[:16]}...): this target was "
            f"tried with {', '.join(KNOWN.values())} of {PACKAGE}")


@functools.cache
def cache() -> Path:
    """A folder for what is built: the user's cache, or this process's own where that is off."""
    folder = user_cache("ascend").folder
    if folder is None:
        return Path(_OWN.name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_OWN = tempfile.TemporaryDirectory(prefix="firstlight-ascend-")


def lower(text: str, chip: str, where: str, seconds: int = SECONDS) -> Lowered:
    """Lower one module for a chip, e.g. "Ascend950PR_9589"; `where` names it in errors.

    Raises TooLarge (F475) where its tiles do not fit, F473 without the compiler, F474 for anything
    else the compiler does not take, and where it aborts or takes longer than `seconds`.
    """
    binary = compiler()
    if binary is None:
        raise FirstlightError("F473", "the chip's compiler is not installed", where=where,
                              why="there is no Python package ascendnpuir here",
                              try_=f"pip install {PACKAGE}")
    key = hashlib.sha256("\0".join([text, chip, *FLAGS, digest(binary)]).encode()).hexdigest()
    kept = Cache(cache())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lowered.gz")
        if not kept.fetch(f"{key}.gz", file):
            parts = "\0".join(_run(binary, text, chip, where, seconds))
            file.write_bytes(gzip.compress(parts.encode(), 3, mtime=0))
            kept.keep(f"{key}.gz", file)
            kept.trim()
        module, snapshot = gzip.decompress(file.read_bytes()).decode().split("\0")
    return Lowered(module, snapshot)


def _run(binary: Path, text: str, chip: str, where: str, seconds: int) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.mlir")
        source.write_text(text)
        command = [str(binary), str(source), f"--target={chip}", *FLAGS, *DUMP,
                   f"--save-temps={folder}", "-o", str(Path(folder, "kernel.o"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            if done.returncode == 1 and not re.search(r"\berror: |Cannot find", done.stderr):
                # tried once, it may keep to itself that its vector memory overflows
                command.remove(ONCE)
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise _refused(where, f"it was not done after {seconds} s", text) from None
        written = Path(folder, LOWERED)
        if written.exists() and _only_the_last_step_is_missing(done):
            parts = HEAD.split(done.stderr)
            snapshot = parts[-1] if len(parts) > 1 else ""
            return (BITCODE.sub(r'"bitcode/\1"', written.read_text()),
                    snapshot[: snapshot.rfind("\n}\n") + 3].lstrip("\n"))
    said = done.stderr.replace(str(source), "kernel.mlir")
    overflow = re.search(r"(ub|L1|L0C|cbuf|cc) overflow, requires (\d+) bits while (\d+)", said,
                         re.I)
    if overflow:
        raise TooLarge(
            "F475", "the tiles of a kernel do not fit the chip's memory", where=where,
            why=f"{overflow[1]} takes {int(overflow[2]) // 8} bytes, and there are "
                f"{int(overflow[3]) // 8}", try_="a smaller tile")
    if done.returncode < 0 or done.returncode >= 128:
        raise _refused(where, f"it was ended by signal {abs(done.returncode) % 128}: "
                              f"{_first(said)}", text)
    raise _refused(where, _first(said), text)


def _only_the_last_step_is_missing(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether all that went wrong is that CANN is not here; with CANN, nothing did."""
    if done.returncode == 0:
        return True
    wrong = [line for line in done.stderr.splitlines()
             if line.startswith("[ERROR]") or re.search(r"\berror: ", line)]
    return done.returncode == 1 and bool(wrong) and all(
        MISSING in line or FAILED in line for line in wrong)


def _first(said: str) -> str:
    """The first complaint in what the compiler said."""
    lines = [line.strip() for line in said.splitlines() if re.search(
        r"error: |Assertion|LLVM ERROR", line) and "Failed to run" not in line]
    return (lines or ["it says nothing"])[0][:400]


def _refused(where: str, why: str, text: str) -> FirstlightError:
    folder = user_cache("ascend").folder or Path(tempfile.mkdtemp(prefix="firstlight-"))
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{where}.mlir"
    kept.write_text(text)
    return FirstlightError("F474", "the chip's compiler does not take a kernel", where=where,
                           why=why, try_=f"its text is kept in {kept}")


# -- the link check -------------------------------------------------------------------------------


@functools.cache
def _libraries() -> tuple[bytes, ...]:
    binary = compiler()
    if binary is None:
        return ()
    folder = binary.parent.parent / "lib"
    return tuple((folder / f"meta_op.{name}.c310.bc").read_bytes()
                 for name in ("aiv", "aic", "mix.aiv", "mix.aic"))


@functools.cache
def _linked(name: str) -> bool:
    # a whole name stands somewhere with no more of a name after it
    symbol = name if name.startswith("_mlir_ciface_") else f"_mlir_ciface_{name}"
    whole = re.compile(re.escape(symbol.encode()) + rb"(?![A-Za-z0-9_])")
    return any(whole.search(library) for library in _libraries())


def unlinked(module: str) -> Iterator[str]:
    """Library functions that a lowered module calls and that do not exist."""
    return (name for name in sorted(set(PRIVATE.findall(module))) if not _linked(name))
