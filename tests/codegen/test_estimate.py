"""The performance model's counts against the specification's closed forms; its terms by hand."""

import dataclasses

import pytest

from firstlight.codegen.estimate import Estimator, Point, Work, prefill, step, terms
from firstlight.codegen.rates import Product, Rates
from firstlight.frontend.config import parse_config
from firstlight.frontend.model import config_types, trace_model
from firstlight.ir.core import Module
from firstlight.passes.pipeline import PIPELINE, parse, run_pipeline
from support.sparse import FLASH, PRO

CARD = Rates(
    name="slide rule", memory=1e12, products={"one": 1e14}, vector=1e13, lane_registers=1e9,
    codecs=dict.fromkeys(("fp8e4m3", "fp4e2m1", "bf16", "f32", "state", ""), Product("one")),
    ways={"unpacked": {"fp4e2m1": Product("one", unpack=20)},
          "wide": {"fp4e2m1": Product("one", grow=2)}},
    launch=1e-6, link=1e11, room=1e11, source="made up", rows=((1024, 0.25), (4096, 1.0)), tile=1)


@pytest.fixture(scope="module")
def models() -> dict[str, Module]:
    found = {}
    for name, raw in (("flash", FLASH), ("pro", PRO)):
        config = parse_config(raw)
        found[name] = run_pipeline(trace_model(config, config_types(config)), parse(PIPELINE))
    return found


def counts(module: Module, point: Point) -> Work:
    """Everything that a step does."""
    one, total = Estimator(module, CARD, point), Work()
    calls = {"score": 1}
    for op in module["score"].ops:
        if op.name == "call":
            calls[op.attrs["callee"]] = calls.get(op.attrs["callee"], 0) + 1
    for name, times in calls.items():
        for op in module[name].ops:
            if op.name in ("call", "add", "mul", "reshape", "iota", "constant", "repeat",
                           "broadcast", "slice", "size", "gather_rows", "transpose", "concat"):
                continue
            work = one.work(op)
            total.bytes += [(times * n, row) for n, row in work.bytes]
            for kind, n in work.products.items():
                total.products[kind] = total.products.get(kind, 0) + times * n
    return total


@pytest.mark.parametrize(("model", "context", "gflop"), [
    ("flash", 4096, 29.1), ("flash", 65536, 35.7), ("flash", 1 << 20, 140.3),
    ("pro", 4096, 108.6), ("pro", 1 << 20, 303.2)])
def test_products_are_those_of_the_specification(models, model, context, gflop):
    work = counts(models[model], Point(context))
    assert work.products["one"] / 1e9 == pytest.approx(gflop, rel=0.02)


@pytest.mark.parametrize(("model", "gigabytes"), [("flash", 11.22), ("pro", 39.67)])
def test_bytes_of_a_token_are_those_of_the_specification(models, model, gigabytes):
    """Weights; at this context, state and values between kernels are less than a percent."""
    work = counts(models[model], Point(1024))
    assert sum(n for n, _ in work.bytes) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_bytes_of_state_at_a_million_tokens(models):
    """Index keys 374 MB, all entries of HCA layers 96 MB, selected entries 6.3 MB."""
    near, far = (counts(models["flash"], Point(c)) for c in (1 << 13, 1 << 20))
    more = sum(n for n, _ in far.bytes) - sum(n for n, _ in near.bytes)
    assert more / 1e6 == pytest.approx((374 + 96) * (1 - 2 ** -7), rel=0.02)


def test_experts_are_read_as_far_as_they_are_chosen(models):
    """6 of 256: one token reads 6, many read all; on 16 chips each reads its share."""
    def experts(batch: int, chips: int = 1) -> float:
        module, point = models["flash"], Point(1024, batch, chips=chips)
        op = next(op for op in module["ffn"].ops if op.name == "expert_ffn")
        return sum(n for n, row in Estimator(module, CARD, point).work(op).bytes[1:4])

    each = experts(1) / 6
    assert experts(4096) == pytest.approx(256 * each, rel=1e-3)
    assert 20 * each < experts(4) < 24 * each
    assert experts(4096, 16) == pytest.approx(16 * each, rel=1e-3)


def test_a_kernel_takes_as_long_as_its_slowest_part():
    work = Work([(1e9, 8192.0), (1e9, 1024.0)], {"one": 1e12}, vector=1e10, registers=1e6)
    one = terms(work, CARD)
    assert one.memory == pytest.approx(1e-3 + 4e-3)
    assert (one.product, one.vector, one.lanes) == (1e-2, 1e-3, 1e-3)
    assert one.total == pytest.approx(1e-2 + 1e-6)
    assert one.bound == "product"


def test_short_rows():
    assert CARD.share(8192) == CARD.share(4096) == 1
    assert CARD.share(2048) == pytest.approx(0.5)
    assert CARD.share(512) == pytest.approx(0.125)
    assert dataclasses.replace(CARD, rows=()).share(1) == 1


def test_ways_of_products_with_experts(models):
    def ms(way: str) -> float:
        return step(models["flash"], CARD.using(way), Point(1024))["ops"]["expert_ffn"] * 1e3

    # 3.45 GB of 4 bits are 6.49e9 weights: 20 operations on each take longer than to read them
    assert ms("") < ms("wide") < ms("unpacked")
    assert ms("unpacked") == pytest.approx(13.0, rel=0.01)


def test_a_step_adds_up(models):
    one = step(models["flash"], CARD, Point(8192, 32, 2, 4, accepted=0.5))
    parts = sum(f["calls"] * f["seconds"] for f in one["functions"].values())
    assert one["seconds"] == pytest.approx(parts) == pytest.approx(sum(one["ops"].values()))
    assert one["tokens_per_second"] == pytest.approx(32 * 1.5 / one["seconds"] / 4)
    assert one["seconds_per_token"] == pytest.approx(one["seconds"] / 1.5)
    assert [one["functions"][n]["calls"] for n in ("attn_csa_4", "attn_hca_128", "ffn")] == [
        21, 20, 40]
    assert one["terms"]["sent"] > 0 == step(models["flash"], CARD, Point(8192))["terms"]["sent"]


def test_prefill_is_slower_further_on(models):
    short, long = (prefill(models["flash"], CARD, Point(c), 4096) for c in (8192, 1 << 20))
    assert short["tokens_per_second"] > long["tokens_per_second"] > 0
