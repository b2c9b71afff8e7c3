"""fuse-across-calls."""

from pathlib import Path

import pytest

from firstlight.ir.array import Array, emit
from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, census
from firstlight.ir.dims import B, S
from firstlight.ir.types import TensorType
from firstlight.passes import PIPELINE, run_pipeline
from firstlight.passes.fuse_across_calls import FuseAcrossCalls
from firstlight.passes.legalize import Legalize
from support.modules import difference, tensor, traced
from support.random_models import random_config

N, D = 2, 6
ATTRS = {"eps": 1e-3, "hc_eps": 2e-3, "rounds": 2}
WEIGHTS = tuple(TensorType(shape, "f32", "f32")
                for shape in (((2 + N) * N, N * D), ((2 + N) * N,), (3,), (D,)))


def sublayer(name: str, twice: bool = False, scaled: bool = False, codec: str = "f32") -> Function:
    """Streams and weights -> streams; `twice` begins with two mixers, `scaled` ends with a mul.

    codec: of the scales and the norm's weight.
    """
    b = Builder(name)
    types = (tensor(B, S, N, D), *WEIGHTS[:2], TensorType((3,), "f32", codec),
             TensorType((D,), "f32", codec))
    x, *weights = (Array(b, b.arg(t, n)) for t, n in zip(
        types, ("x", "fn", "base", "scale", "norm"), strict=True))
    u, post, comb = emit(b, "hyper_pre", x, *weights, **ATTRS)
    if twice:
        u = u + emit(b, "hyper_pre", x, *weights, **{**ATTRS, "rounds": 1})[0]
    (out,) = emit(b, "hyper_post", x, u * 0.5, post, comb)
    return b.finish((out * 2.0 if scaled else out).value)


def chain(*names: str, functions: tuple[Function, ...], read: int = -1,
          shared: bool = False, breaks: tuple[int, ...] = ()) -> Module:
    """Calls one after the other, each with weights of its own; the result `read` is one, too.

    breaks: calls before which streams are scaled.
    shared: weights of the last call are computed by the first.
    """
    module = Module({f.name: f for f in functions})
    b = Builder("main", module)
    x = Array(b, b.arg(tensor(B, S, N, D), "x"))
    results = []
    for i, name in enumerate(names):
        weights = [Array(b, b.arg(v.type, f"w{i}")) for v in module[name].args[1:]]
        if shared and i == len(names) - 1:
            weights[2] = weights[2] + 1.0
        x = x * 1.5 if i in breaks else x
        (x,) = emit(b, "call", x, *weights, callee=name)
        results.append(x.value)
    more = [] if read < 0 else [results[read]]
    return module.with_function(b.finish(results[-1], *more))


def model(layers: str, folder: Path) -> Module:
    """A random model, traced."""
    return traced(random_config(5, layers=layers, num_hash_layers=1, n_routed_experts=8), folder)


def mixers(module: Module) -> dict[str, int]:
    """How many ops of each kind `main` runs."""
    counts: dict[str, int] = {}
    for call in (op for op in module["main"].ops if op.name == "call"):
        for op in module[str(call.attrs["callee"])].ops:
            counts[op.name] = counts.get(op.name, 0) + 1
    return {name: n for name, n in counts.items() if name.startswith("hyper")}


@pytest.mark.parametrize("read", [-1, 0])
def test_text_and_meaning(golden, read: int) -> None:
    """Streams that somebody else reads, too, are results as before."""
    before = chain("a", "b", "a", functions=(sublayer("a"), sublayer("b")), read=read)
    after = run_pipeline(before, [FuseAcrossCalls()])
    assert mixers(after) == {"hyper_pre": 1, "hyper_mix": 2, "hyper_post": 1}
    assert difference(before, after) <= 1e-5
    if read < 0:
        golden("fuse_across_calls", after)


def test_one_function_in_three_surroundings() -> None:
    before = chain(*"aaaaa", functions=(sublayer("a"),))
    after = run_pipeline(before, [FuseAcrossCalls()])
    assert mixers(after) == {"hyper_pre": 1, "hyper_mix": 4, "hyper_post": 1}
    assert len(after.functions) == 1 + 3
    assert difference(before, after) <= 1e-5


@pytest.mark.parametrize(("second", "options"), [
    (sublayer("b", twice=True), {}), (sublayer("b", codec=""), {"shared": True}),
])
def test_what_cannot_be_done_before_stays(second: Function, options: dict[str, bool]) -> None:
    before = chain("a", "b", functions=(sublayer("a"), second), **options)
    assert str(run_pipeline(before, [FuseAcrossCalls()])) == str(before)


def test_a_call_that_ends_otherwise_stays() -> None:
    before = chain("a", "b", functions=(sublayer("a", scaled=True), sublayer("b")))
    assert str(run_pipeline(before, [FuseAcrossCalls()])) == str(before)


def test_names_that_are_taken() -> None:
    functions = (sublayer("a"), sublayer("a_0"), sublayer("a_1"))
    before = chain("a", "a_0", "a", "a_1", functions=functions)
    after = run_pipeline(before, [FuseAcrossCalls()])
    assert mixers(after)["hyper_mix"] == 3
    assert difference(before, after) <= 1e-5


@pytest.mark.parametrize("layers", ["w", "wch", "wchwchch"])
def test_all_sublayers_of_a_model(tmp_path: Path, layers: str) -> None:
    before = model(layers, tmp_path)
    after = run_pipeline(before, f"{PIPELINE},fuse-across-calls")
    for entry in ("score", "prefill"):
        counts: dict[str, int] = {}
        for call in (op for op in after[entry].ops if op.name == "call"):
            for name, n in census(after[str(call.attrs["callee"])]).items():
                counts[name] = counts.get(name, 0) + n
        assert counts["hyper_mix"] == 2 * len(layers) - 1
        assert counts["hyper_pre"] == counts["hyper_post"] == 1
        assert difference(before, after, entry) <= 2e-5


def test_legalize_gives_the_parts_back(tmp_path: Path) -> None:
    before = model("wc", tmp_path)
    after = run_pipeline(before, f"{PIPELINE},fuse-across-calls")
    parts = Legalize(("hyper_pre", "hyper_post")).run(after)
    assert "hyper_mix" not in census(parts)
    assert difference(before, parts, "score") <= 2e-5


def test_the_next_functions_weights_may_differ() -> None:
    functions = (sublayer("a"), sublayer("b"), sublayer("c", codec="bf16"))
    before = chain("a", "b", "a", "c", functions=functions)
    after = run_pipeline(before, [FuseAcrossCalls()])
    assert mixers(after) == {"hyper_pre": 1, "hyper_mix": 3, "hyper_post": 1}
    assert difference(before, after) <= 1e-5


def test_two_results_of_a_function_that_go_on() -> None:
    """Each of its two streams is mixed in another call."""
    b = Builder("two")
    x, *weights = (Array(b, b.arg(t)) for t in (tensor(B, S, N, D), *WEIGHTS))
    u, post, comb = emit(b, "hyper_pre", x, *weights, **ATTRS)
    outs = [emit(b, "hyper_post", x, u * factor, post, comb)[0].value for factor in (0.5, 3.0)]
    module = Module({"two": b.finish(*outs), "b": sublayer("b")})
    b = Builder("main", module)
    x, results = Array(b, b.arg(tensor(B, S, N, D), "x")), []
    for which in (0, 1):
        one, other = ([Array(b, b.arg(t)) for t in WEIGHTS] for _ in range(2))
        streams = emit(b, "call", x, *one, callee="two")
        results += [emit(b, "call", streams[which], *other, callee="b")[0].value]
    before = module.with_function(b.finish(*results))
    after = run_pipeline(before, [FuseAcrossCalls()])
    assert mixers(after)["hyper_mix"] == 2
    assert difference(before, after) <= 1e-5


def test_calls_inside_a_call() -> None:
    functions = (sublayer("a"), sublayer("b"))
    b = Builder("outer", Module({f.name: f for f in functions}))
    x = Array(b, b.arg(tensor(B, S, N, D), "x"))
    own, *inner = ([Array(b, b.arg(t)) for t in WEIGHTS] for _ in range(3))
    u, post, comb = emit(b, "hyper_pre", x, *own, **ATTRS)
    for name, weights in zip("ab", inner, strict=True):
        (x,) = emit(b, "call", x, *weights, callee=name)
    outer = b.finish(emit(b, "hyper_post", x, u, post, comb)[0].value)
    before = chain("a", "outer", "b", functions=(*functions, outer))
    after = run_pipeline(before, [FuseAcrossCalls()])
    assert mixers(after) == {"hyper_pre": 1, "hyper_mix": 2, "hyper_post": 1}
    inside = [f for f in after if f.name != "main" and any(op.name == "call" for op in f.ops)]
    assert any("hyper_mix" in census(after[str(op.attrs["callee"])])
               for f in inside for op in f.ops if op.name == "call")
    assert difference(before, after) <= 1e-5


def test_copies_of_quantize_have_names_of_their_own() -> None:
    """A function is called joined and alone, and two weights get another codec."""
    before = chain(*"aaaaa", functions=(sublayer("a"),), breaks=(3, 4))
    step = "quantize{codecs=w4=bf16}"
    one, two = run_pipeline(before, step), run_pipeline(before, f"fuse-across-calls,{step}")
    assert mixers(two)["hyper_mix"] == 2
    assert difference(one, two) <= 1e-5
