"""Kernels for chips of many threads: any kernel as launches, and TVM's text for them.

    spatial    loops whose rounds are independent     schedule   a kernel as launches
    memory     arrays: a thread's own, or workspace   sizes      sizes of launches as plain data
    text       one schedule, printed for any chip     manifest   code/launch.json
"""

from firstlight.codegen.simt.schedule import Phase, Scheduled, scheduled
from firstlight.codegen.simt.text import text

__all__ = ["Phase", "Scheduled", "scheduled", "text"]
