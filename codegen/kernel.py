"""What a kernel factory returns: the function and how it wants its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstlight.codegen.tvm_bridge import PrimFunc


@dataclass(frozen=True)
class Kernel:
    """One compiled-to-be kernel.

    Attributes:
        name: symbol of the kernel, ``__tvm_ffi_<name>`` in the object.
        func: PrimFunc whose parameters are raw pointers, one per operand (a weight with scales has
            two, codes then scales), then one per result, then the int32 token count `S`.
        layouts: for each *operand of the op*, the packed layout its bytes must have; None where the
            bytes are the plain C-contiguous array.
        in_place: the operand that the first result may lie over, byte for byte: what is there is
            read before it is written. None: results lie apart from operands.
    """

    name: str
    func: PrimFunc
    layouts: tuple[str | None, ...]
    in_place: int | None = field(default=None, kw_only=True)
