"""The abacus: a pretend chip whose cores have 64 KiB of scratch memory ("beads").

Tasks run on cores. Vectors of 16 are fetched into beads by DMA, computed on, and sent back.
"""

from abacus.emit import SCRATCH, build, emit, emulate
from abacus.kernels import hand_written
from firstlight.codegen.target import Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace


def tools() -> tuple[Tool, ...]:
    """The abacus compiler is any C compiler, with abacus.h."""
    from firstlight.codegen.c_compiler import drivers

    found = drivers()
    return (Tool("abacus compiler", " ".join(found[0]) if found else None,
                 "pip install 'firstlight[compile]'"),)


ABACUS = Target(
    name="abacus",
    summary="A pretend chip from another package: DMA, beads and vectors",
    tier="C",                                    # emitted, and executed in our emulator
    capabilities=Capabilities(
        native=frozenset({"hyper_post"}),        # what `hand_written` has
        vector_bytes=64,
        memory=(MemorySpace("dram"), MemorySpace("scratch", SCRATCH)),
    ),
    requires={"chip": "abacus"},
    emit=emit,
    build=build,
    emulate=emulate,
    launcher="abacus",
    missing={                                    # composites: decomposed, and the user is told why
        "hyper_pre": "its rounds over a 4 x 4 matrix leave all beads but four idle",
        "norm_rope": "sines are computed by another unit than sums of squares",
    },
    overrides=hand_written,
    tools=tools,
)
TARGETS = (ABACUS,)
