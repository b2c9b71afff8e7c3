"""Generic kernels: structured TIR for every op, from one lowering per primitive.

    recipe      what an element is         table       primitive -> lowering
    emitter     where and in which loops   function    what is stored, in which order
    storage     operands in every codec    kernel      the whole kernel of one op
"""

from firstlight.codegen.generic import (
    control,
    elementwise,
    movement,
    products,
    reductions,
    rounding,
    states,
)
from firstlight.codegen.generic.kernel import generic_kernel
from firstlight.codegen.generic.table import LOWERINGS

__all__ = ["LOWERINGS", "control", "elementwise", "generic_kernel", "movement", "products",
           "reductions", "rounding", "states"]
