"""Kernels as text. A chip's emitter is a subclass of one of these with its own words.

    c         plain C: one thread, the base of the others, and it runs anywhere
    simt      threads in groups: every phase of a kernel is launched for itself
    vector    tasks with a scratch memory: DMA in, vector instructions, DMA out
"""

from firstlight.codegen.printer.c import CPrinter
from firstlight.codegen.printer.simt import SimtPrinter
from firstlight.codegen.printer.vector import VectorPrinter

__all__ = ["CPrinter", "SimtPrinter", "VectorPrinter"]
