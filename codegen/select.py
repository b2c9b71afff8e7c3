"""Choosing a kernel for each op: the target's override where it fits, else the generic one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Override, Target
from firstlight.ir.core import Module, Op
from firstlight.ir.printer import print_function, print_op


@dataclass
class KernelSet:
    """The kernels of one artifact; equal ops (types and attributes) share one."""

    target: Target
    generic_only: bool = False
    numerics: str = "float"
    kernels: dict[str, Kernel] = field(default_factory=dict)
    native: set[str] = field(default_factory=set)
    overrides: Mapping[str, Override] = field(init=False)
    _own: dict[str, Kernel | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        fast = self.target.fast if self.numerics == "fast" else None
        self.overrides = {} if self.generic_only else (fast or self.target.overrides)()

    def kernel(self, op: Op, module: Module, tokens: int) -> Kernel:
        """The kernel of `op`; `tokens` is the largest number of tokens of a call."""
        symbol = self.symbol(op, module)
        if symbol not in self.kernels:
            self.kernels[symbol] = self._make(symbol, op, module, tokens)
        return self.kernels[symbol]

    def override(self, op: Op, module: Module, tokens: int) -> Kernel | None:
        """The target's own kernel of `op`, if there is one that fits."""
        symbol = self.symbol(op, module)
        if symbol not in self._own:
            make = self.overrides.get(op.name)
            self._own[symbol] = make(symbol, op, tokens) if make else None
        return self._own[symbol]

    def in_place(self, op: Op, module: Module, tokens: int) -> int | None:
        """The operand that the first result may lie over; only a target's own kernels say so."""
        kernel = self.override(op, module, tokens)
        return kernel.in_place if kernel else None

    def symbol(self, op: Op, module: Module) -> str:
        """A name that equal ops share: the op and a hash of its text."""
        text = print_op(op, locs=False)
        if "callee" in op.attrs:
            text += print_function(module[str(op.attrs["callee"])], locs=False)
        return f"{op.name}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def _make(self, symbol: str, op: Op, module: Module, tokens: int) -> Kernel:
        kernel = self.override(op, module, tokens)
        if kernel is not None:
            self.native.add(symbol)
            return kernel
        return make_generic(self.target, symbol, op, module)


def make_generic(target: Target, symbol: str, op: Op, module: Module) -> Kernel:
    """The kernel of an op that no override makes: the target's own way, or generic TIR."""
    if target.generic is not None:
        return target.generic(symbol, op, module)
    from firstlight.codegen.generic import generic_kernel

    return generic_kernel(symbol, op, module)
