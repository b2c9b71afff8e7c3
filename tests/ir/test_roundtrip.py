"""The text form: modules print, parse back and print the same; errors say where."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.ir import dims
from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.dims import B, C, Dim, S, Size
from firstlight.ir.parser import parse, parse_type
from firstlight.ir.types import CODECS, DTYPES, StateType, TensorType, Type
from firstlight.ir.verifier import verify
from firstlight.runtime.errors import FirstlightError

numbers = st.integers(1, 300)
floats = st.floats(width=64) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, 1e-45, 1e300])
paths = st.text(max_size=8) | st.sampled_from(["layers.7.attn.wq_a", 'a "quoted" \\ path'])
names = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True)


@st.composite
def symbolic(draw: st.DrawFn) -> Size:
    """A symbol through up to three operations."""
    dim: Size = draw(st.sampled_from([B, S, C]))
    for _ in range(draw(st.integers(0, 3))):
        dim = draw(st.sampled_from([dims.add, dims.ceildiv, dims.floordiv]))(dim, draw(numbers))
    return dim


sizes = st.integers(1, 4) | symbolic()


@st.composite
def tensor_types(draw: st.DrawFn) -> TensorType:
    shape = tuple(draw(st.lists(sizes, max_size=4)))
    return TensorType(shape, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(["", *CODECS])))


@st.composite
def state_types(draw: st.DrawFn) -> StateType:
    kind = draw(st.sampled_from(["ring", "partial", "entries"]))
    codec = draw(st.sampled_from(["f32", "bf16"]))
    if kind == "entries":
        return StateType(kind, draw(numbers), ratio=draw(numbers), codec=codec)
    ratio = draw(numbers) if kind == "partial" else 0
    return StateType(kind, draw(numbers), draw(numbers), ratio, codec)


types = tensor_types() | state_types()


@st.composite
def functions(draw: st.DrawFn, name: str, module: Module) -> Function:
    """Random ops over random arguments, and calls of the functions that are there already."""
    builder = Builder(name, module)
    values: list[Value] = [builder.arg(draw(types), draw(paths)) for _ in range(draw(numbers) % 4)]

    def tensors() -> list[Value]:
        return [v for v in values if isinstance(v.type, TensorType)]

    for _ in range(draw(st.integers(0, 12))):
        builder.loc = draw(paths)
        kind = draw(st.sampled_from(["constant", "table", "iota", "size", "same", "call"]))
        if kind == "constant":
            dtype, value = draw(st.sampled_from([("f32", floats), ("i32", st.integers(-9, 9)),
                                                 ("bool", st.booleans())]))
            op = builder.emit("constant", value=draw(value), dtype=dtype, shape=(2, 3))
        elif kind == "table":
            table = tuple(draw(st.lists(floats, max_size=4)))
            op = builder.emit("constant", value=table, dtype="f32", shape=(len(table),))
        elif kind == "iota":
            shape = (draw(sizes), draw(sizes))
            op = builder.emit("iota", shape=shape, axis=draw(st.integers(0, 1)))
        elif kind == "size":
            op = builder.emit("size", dim=draw(symbolic()))
        elif kind == "same" and tensors():
            x = draw(st.sampled_from(tensors()))
            op = draw(st.sampled_from([
                lambda x: builder.emit("exp", x), lambda x: builder.emit("add", x, x),
                lambda x: builder.emit("cast", x, dtype="f32"),
                lambda x: builder.emit("top_k", builder.emit("concat", x, axis=0).result, k=3)
                if x.type.rank else builder.emit("neg", x),
                lambda x: builder.emit("transpose", x, perm=tuple(range(x.type.rank))[::-1]),
                lambda x: builder.emit("reshape", x, shape=(1, *x.type.shape)),
            ]))(x)
        elif kind == "call" and module.functions:
            callee = draw(st.sampled_from(sorted(module.functions)))
            if not module[callee].results:
                continue
            args = [builder.arg(a.type, draw(paths)) for a in module[callee].args]
            op = builder.emit("call", *args, callee=callee)
        else:
            continue
        values += op.results
    known = [*builder.args, *values]
    results = st.lists(st.sampled_from(known), max_size=3) if known else st.just([])
    return builder.finish(*draw(results))


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """Up to three functions."""
    module = Module()
    for name in draw(st.lists(names, max_size=3, unique=True)):
        module = module.with_function(draw(functions(name, module)))
    return module


def same(a: object, b: object) -> bool:
    """Equality in which a NaN equals itself; types count."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@settings(max_examples=100, deadline=None)
@given(modules())
def test_random_modules_round_trip(module: Module) -> None:
    verify(module)
    text = str(module)
    back = parse(text)
    assert str(back) == text
    assert back.hash == module.hash
    for one, two in zip(module, back, strict=True):
        assert one.name == two.name
        assert [(v.type, v.loc) for v in one.args] == [(v.type, v.loc) for v in two.args]
        for op, other in zip(one.ops, two.ops, strict=True):
            assert (op.name, op.loc, op.attrs.keys()) == (other.name, other.loc, other.attrs.keys())
            assert all(same(op.attrs[k], other.attrs[k]) for k in op.attrs)
            assert [v.type for v in op.results] == [v.type for v in other.results]


@settings(max_examples=150, deadline=None)
@given(modules(), st.data())
def test_damaged_text_is_refused_with_a_place(module: Module, data: st.DataObject) -> None:
    text = str(module)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 6)))
    inserted = data.draw(st.text(alphabet='(){}[]<>,:"=@%^!x19.-e\\/ \n#', max_size=3))
    damaged = text[:start] + inserted + text[stop:]
    error = refusal(damaged)
    if error is not None and error.code == "F207":
        assert error.where.startswith("damaged.ir:")
        assert " line " in error.what
        assert " column " in error.what


def refusal(text: str) -> FirstlightError | None:
    """Why a text is not a module; other exceptions are bugs and go on."""
    try:
        parse(text, "damaged.ir")
    except FirstlightError as error:
        return error
    return None


@given(types)
def test_types_round_trip(type_: Type) -> None:
    assert parse_type(str(type_)) == type_


@given(symbolic())
def test_dims_round_trip(dim: Size) -> None:
    assert dims.parse(str(dim)) == dim


@given(symbolic(), numbers, numbers, numbers)
def test_dims_evaluate_as_they_read(dim: Size, b: int, s: int, c: int) -> None:
    known = {"B": b, "S": s, "C": c}

    def value(d: Size) -> int:
        if isinstance(d, int):
            return d
        if d.base is None:
            return known[d.head]
        inner = value(d.base)
        return {"add": inner + d.amount, "ceildiv": -(-inner // d.amount),
                "floordiv": inner // d.amount}[d.head]

    assert dims.evaluate(dim, known) == value(dim)
    assert dims.substitute(dim, {}) == dim


def test_dims_are_canonical() -> None:
    assert dims.add(3, dims.add(S, 4)) == dims.add(S, 7)
    assert dims.add(S, 0) == dims.ceildiv(S, 1) == dims.floordiv(S, 1) == S
    assert dims.add(2, 3) == 5
    assert str(dims.ceildiv(dims.add(S, 127), 4)) == "ceildiv(S+127,4)"


@pytest.mark.parametrize("text", ["", "S+", "s", "S*2", "ceildiv(S)", "ceildiv(S,4", "S S", "4 ",
                                  "S+ceildiv(S,2)", "S//0x2", "1.5", "4//0", "ceildiv(" * 9999])
def test_other_dims_are_refused(text: str) -> None:
    with pytest.raises(FirstlightError, match="F201"):
        dims.parse(text)


def test_dims_of_two_symbols_are_refused() -> None:
    with pytest.raises(FirstlightError, match="F201"):
        dims.add(B, S)
    with pytest.raises(FirstlightError, match="size of a symbol is not known"):
        dims.evaluate(S, {"B": 1})


TEXT = '''"builtin.module"() ({
  "func.func"() ({
  ^bb0(%arg0: !fl.tensor<BxSxf32>):
    %0 = "fl.exp"(%arg0) : (!fl.tensor<BxSxf32>) -> !fl.tensor<BxSxf32>
    "func.return"(%0) : (!fl.tensor<BxSxf32>) -> ()
  }) {function_type = (!fl.tensor<BxSxf32>) -> (!fl.tensor<BxSxf32>), sym_name = "main"} : () -> ()
}) : () -> ()
'''


@pytest.mark.parametrize(("old", "new", "says", "line", "column"), [
    ("fl.exp", "fl.expp", "unknown op", 4, 10),
    ('"fl.exp"(%arg0)', '"fl.exp"(%arg1)', "%arg1 is not defined", 4, 19),
    ("%0 = ", "%0 : ", "expected =, found :", 4, 8),
    ("%0 = ", "%arg0 = ", "%arg0 is defined twice", 5, 5),
    ("^bb0(%arg0: !fl.tensor<BxSxf32>", "^bb0(%arg0: !fl.tensor<BxSxf64>", "malformed type", 3, 15),
    ('"fl.exp"', "'fl.exp'", "unexpected character", 4, 10),
    ("}) : () -> ()\n", "})", "expected :, found end of text", 7, 3),
    ("BxSxf32>) -> !fl", "Bxf32>) -> !fl", "operand types", 4, 10),
    ("(%arg0) :", '(%arg0) {a = "\\q"} :', "malformed string", 4, 31),
    ("(%arg0) :", "(%arg0) {a = " + "9" * 9999 + "} :", "number is too long", 4, 31),
    ("(%arg0) :", '(%arg0) {a = ["S+"]} :', "malformed dimension", 4, 10),
    ("(%arg0: !fl.tensor<BxSxf32>", "(%arg0: !fl.state<ring, wide=3>", "malformed type", 3, 15),
    ('(%arg0) :', '(%arg0) {a = [' + "[" * 99 + '} :', "nested too deeply", 4, 96),
])
def test_parse_errors_have_line_and_column(old: str, new: str, says: str, line: int,
                                           column: int) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(FirstlightError) as e:
        parse(TEXT.replace(old, new), "some.ir")
    assert e.value.code == "F207"
    assert says in e.value.what
    assert e.value.where == f"some.ir:{line}:{column}"
    assert f"line {line}, column {column}" in e.value.what
    assert len(str(e.value).splitlines()) == 4


X = Value(TensorType((B, 3)), "x")
Y = Value(TensorType((B, 3)), "layers.1.y")
WRONG = Value(TensorType((B, 4)))


@pytest.mark.parametrize(("function", "says"), [
    (Function("main", (X,), (Op("exp", (Y,), {}, (WRONG,)),), (X,)), "not defined before it"),
    (Function("main", (X,), (Op("exp", (X,), {}, (X,)),), (X,)), "defines a value twice"),
    (Function("main", (X,), (Op("exp", (X,), {}, (WRONG,)),), (X,)), "has results"),
    (Function("main", (X,), (Op("exp", (X,), {"k": 1}, (Y,)),), (X,)), "do not fit"),
    (Function("main", (X, WRONG), (Op("add", (X, WRONG), {}, (Y,)),), (X,)), "not well formed"),
    (Function("main", (X,), (Op("exp", (X, X), {}, (Y,)),), (X,)), "takes 1 operands, got 2"),
    (Function("main", (X,), (Op("call", (X,), {"callee": "f"}, (Y,)),), (X,)), "not well formed"),
    (Function("main", (X,), (Op("expp", (X,), {}, (Y,)),), (X,)), "unknown op"),
])
def test_verifier_errors_show_the_op(function: Function, says: str) -> None:
    with pytest.raises(FirstlightError) as e:
        verify(Module({"main": function}))
    assert e.value.code == "F206"
    assert says in e.value.what
    (op,) = function.ops
    assert e.value.where.startswith(f'@main: %? = "fl.{op.name}"(%?')
    assert len(str(e.value).splitlines()) == 4


@pytest.mark.parametrize("function", [
    Function("main", (X, X), (), (X,)), Function("main", (X,), (), (Y,)),
    Function("other", (X,), (), (X,)),
])
def test_verifier_errors_without_an_op_show_the_function(function: Function) -> None:
    with pytest.raises(FirstlightError, match="F206") as e:
        verify(Module({"main": function}))
    assert e.value.where == "@main"


def test_callers_come_after_callees() -> None:
    callee = Function("callee", (X,), (), (X,))
    caller = Function("caller", (Y,), (Op("call", (Y,), {"callee": "callee"}, (WRONG,)),), (Y,))
    with pytest.raises(FirstlightError, match="there is no function @callee"):
        verify(Module({"caller": caller, "callee": callee}))


def test_a_dim_prints_as_itself() -> None:
    assert isinstance(S, Dim)
    assert repr(S) == "S"
