"""OpenCL C from scheduled kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt import Scheduled, scheduled, text
from firstlight.codegen.simt.manifest import write_launches
from firstlight.codegen.simt.schedule import RECENT
from firstlight.codegen.target import Source
from firstlight.passes.capabilities import Capabilities

KIND, FLOAT_OF = {"kind": "opencl"}, "as_float"
FILE = "kernels.cl"
HEAD = re.compile(r"^__kernel void (\w+)\((.*)\)( \{|;)$", re.MULTILINE)
# TVM names some functions as C does
PROLOGUE = "#define log1pf log1p\n"
POINTER = re.compile(r"(__global \w+\*) (?:__restrict__ )?(\w+)$")


def emit(kernel: Kernel, capabilities: Capabilities) -> Source:
    """The source of one kernel."""
    plan = scheduled(kernel, capabilities)
    code = source(plan).encode()
    return Source({f"{kernel.name}.cl": code}, kernel.name, plan.record(), plan.resources())


def build(kernels: Mapping[str, Kernel], folder: Path, capabilities: Capabilities
          ) -> Sequence[Path]:
    """``code/kernels.cl`` and ``code/launch.json``: the device's own compiler does the rest."""
    return write([scheduled(kernels[name], capabilities) for name in sorted(kernels)], folder)


def write(plans: Sequence[Scheduled], folder: Path) -> Sequence[Path]:
    """The files of launches that were scheduled before, for this chip or another one."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / FILE).write_text("".join(map(source, plans)))
    return [code / FILE, write_launches(code, plans, [FILE])]


@lru_cache(RECENT)
def source(plan: Scheduled) -> str:
    """The text of a kernel, with each pointer as a buffer and the byte where it begins.

    Only whole buffers can be given to a kernel; the alignment of parts of them differs between
    devices. A barrier is also one for the device's memory, through which phases of one group talk.
    """
    code = text(plan, KIND, FLOAT_OF)
    code = code.replace("barrier(CLK_LOCAL_MEM_FENCE)",
                        "barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)")
    return PROLOGUE + HEAD.sub(_with_offsets, code)


def _with_offsets(found: re.Match[str]) -> str:
    name, parameters, end = found.groups()
    given, places = [], []
    for parameter in parameters.split(", "):
        pointer = POINTER.fullmatch(parameter)
        if pointer is None:
            given.append(parameter)
            continue
        kind, label = pointer.groups()
        given += [f"{kind} {label}_buffer", f"ulong {label}_at"]
        places.append(f"  {kind} {label} = ({kind})((__global uchar*){label}_buffer + {label}_at);")
    head = f"__kernel void {name}({', '.join(given)}){end}"
    return "\n".join([head, *places]) if end == " {" else head
