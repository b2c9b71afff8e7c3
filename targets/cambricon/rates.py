"""What the cards do in a second, as far as a public source says; most of it is not public.

MLU370-X8: its maker's announcement of March 2022 (two chips, four dies). For MLU590 there is no
specification that could be cited, so that every number is for the user to give (`--rate`).
"""

from __future__ import annotations

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.traffic import step_traffic
from firstlight.codegen.rates import UNKNOWN, Product, Rates

CODECS = {
    "fp8e4m3": Product("bf16", unpack=2), "fp4e2m1": Product("bf16", unpack=4),
    "bf16": Product("bf16"), "f32": Product("f32"), "state": Product("bf16"), "": Product("bf16"),
}
"""There is no FP8 or FP4 product: codes go through a table (FP4 after a mask and a shift) and are
scaled, element-wise."""


def _card(name: str, source: str, memory: float = UNKNOWN, bf16: float = UNKNOWN,
          link: float = UNKNOWN, room: float = UNKNOWN) -> Rates:
    return Rates(
        name=name, memory=memory, products={"bf16": bf16, "f32": UNKNOWN}, codecs=CODECS,
        vector=UNKNOWN, lane_registers=UNKNOWN, launch=UNKNOWN, link=link, room=room,
        source=source, tile=1)


CARDS = {
    "cambricon-mlu370": (_card(
        "MLU370-X8", "its maker's announcement; memory, products of bf16, link and room only",
        614.4e9, 96e12, 100e9, 48e9),),
    "cambricon-mlu590": (_card("MLU590", "no public specification"),),
}


def traffic(kernel: Kernel) -> list[float]:
    """Of each step of a kernel, bytes that it must read and write for one token."""
    from firstlight.codegen.nests.program import program
    from firstlight.targets.cambricon.attention import fused

    made = fused(kernel, program(kernel))
    return [step_traffic(step, made) for step in made.steps]


TRAFFIC = traffic
DEFAULTS = {"cambricon-mlu370": "MLU370-X8", "cambricon-mlu590": "MLU590"}
PUBLISHED = ()
