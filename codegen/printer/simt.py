"""Kernels for chips of many threads, launched by a host."""

from __future__ import annotations

import re
from typing import Any

from firstlight.codegen.printer.c import CPrinter
from firstlight.codegen.printer.phases import Phase, split


class SimtPrinter(CPrinter):
    """Every phase of a kernel becomes a function ``NAME_0``, ``NAME_1``, ... that is launched.

    The rounds of a parallel loop are dealt out to threads: GROUP() of GROUPS(), in one dimension
    and with a stride, so that any launch that has at least one thread is right. Launches follow
    each other, which makes the barrier between phases. What is alive between phases lies in the
    workspace, in the chip's global memory; arrays of one round are a thread's own.

    ``launch["phases"]`` lists (entry, threads of use), the latter a C expression of S.
    """

    header = "simt.h"
    head = "KERNEL void {name}({parameters})"

    def __init__(self, local_bytes: int = 1 << 14) -> None:
        super().__init__(local_bytes)
        self.phases: list[dict[str, str]] = []
        self.shared = True

    def header_text(self) -> bytes:
        return WORDS + super().header_text()

    def launch(self) -> dict[str, Any]:
        return {**super().launch(), "phases": self.phases}

    def parameter(self, var: Any) -> str:
        text = super().parameter(var)
        return f"GLOBAL {text}" if "*" in text else text

    def fits(self, size: int) -> bool:
        return not self.shared and super().fits(size)

    def body(self, name: str, parameters: list[str], stmt: Any) -> None:
        memory, phases = split(stmt)
        parameters = [p.replace("uint8_t *workspace", "GLOBAL uint8_t *workspace")
                      for p in parameters]
        self.depth += 1
        for declared in memory:
            self.stmt(declared)
        self.depth -= 1
        places, self.lines = self.lines, []
        for number, phase in enumerate(phases):
            self.phase(f"{name}_{number}", ", ".join(parameters), phase, places)

    def phase(self, name: str, parameters: str, phase: Phase, places: list[str]) -> None:
        """Write the function of one phase; `places` are the lines of shared memory."""
        start = len(self.lines)
        with self.braces(self.head.format(name=name, parameters=parameters)):
            if phase.loop is None:
                self.phases.append({"entry": name, "threads": "1"})
                with self.braces("if (GROUP() == 0)"):
                    for stmt in phase.serial:
                        self.stmt(stmt)
            else:
                self.phases.append({"entry": name, "threads": self._size(phase.loop.extent)})
                self.distributed(phase.loop)
        text = "\n".join(self.lines[start:])
        used = [line for line in places if re.search(rf"\b{_declared(line)}\[", text)]
        self.lines[start + 1:start + 1] = used
        self.lines.append("")

    def distributed(self, loop: Any) -> None:
        """A loop whose rounds are dealt out; its arrays are the thread's own."""
        i, count = self.name(loop.loop_var), self.operand(loop.extent)
        before, self.used, self.shared = self.used, 0, False
        with self.braces(f"for (int32_t {i} = GROUP(); {i} < {count}; {i} += GROUPS())"):
            self.stmt(loop.body)
        self.used, self.shared = max(before, self.used), True

    def carve(self, buffer: Any, size: int | str) -> None:
        if not self.shared:
            self.refuse(f"the array {self.name(buffer)} of {size} bytes in a parallel loop")
        super().carve(buffer, size)
        self.lines[-1] = self.lines[-1].replace("(", "(GLOBAL ", 1)
        self.lines[-1] = "    " * self.depth + "GLOBAL " + self.lines[-1].lstrip()


def _declared(line: str) -> str:
    """The name of the pointer that a line of shared memory declares."""
    return line.partition("=")[0].rpartition("*")[2].strip()


WORDS = b"""/* The chip's words. Without a chip: one thread. */
#ifndef KERNEL
#define KERNEL
#define GLOBAL
#define GROUP() 0
#define GROUPS() 1
#endif
"""
