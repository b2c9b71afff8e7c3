"""What cards do in a second, from their makers' datasheets: for estimates beside other chips."""

from __future__ import annotations

from firstlight.codegen.rates import Product, Rates

CODECS = {
    "fp8e4m3": Product("fp8"), "fp4e2m1": Product("fp8", unpack=2), "bf16": Product("bf16"),
    "f32": Product("bf16"), "state": Product("bf16"), "": Product("bf16"),
}


def _card(name: str, bf16: float, fp8: float, memory: float, room: float, vector: float) -> Rates:
    return Rates(
        name=name, memory=memory, products={"bf16": bf16, "fp8": fp8}, codecs=CODECS, vector=vector,
        lane_registers=vector / 64, launch=2e-6, link=450e9, room=room,
        source="datasheet values; a launch of 2 us is assumed", rows=((128, 0.5), (1024, 1.0)))


CARDS = {"cuda-sm90": (
    _card("H20", 148e12, 296e12, 4.0e12, 96e9, 44e12 / 2),
    _card("H100", 989e12, 1979e12, 3.35e12, 80e9, 67e12 / 2),
    _card("H200", 989e12, 1979e12, 4.8e12, 141e9, 67e12 / 2),
)}
DEFAULTS = {"cuda-sm90": "H20"}
PUBLISHED = ()
