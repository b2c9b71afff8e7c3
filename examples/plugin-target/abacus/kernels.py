"""A kernel of the chip's own: hyper_post as one pass over the stream, instead of two."""

from collections.abc import Mapping

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Override
from firstlight.ir.core import Op


def hyper_post(symbol: str, op: Op, tokens: int) -> Kernel | None:
    """X'_k = post_k y + sum_j comb[j, k] X_j, for each token; None where a width is no vector."""
    from firstlight.codegen.tvm_bridge import T, prim_func

    _, length, streams, width = op.operands[0].type.shape
    if width % 16:
        return None

    def body(X_, y_, post_, comb_, out_, S):
        rows = length if isinstance(length, int) else S

        def array(pointer, *shape):
            return T.decl_buffer((rows, *shape), "float32", data=pointer)

        X, y = array(X_, streams, width), array(y_, width)
        post, comb = array(post_, streams), array(comb_, streams, streams)
        out = array(out_, streams, width)
        with T.parallel(rows) as s, T.serial(streams) as k, T.serial(width // 16) as c:
            with T.vectorized(16) as lane:
                d = c * 16 + lane
                value = post[s, k] * y[s, d]
                for j in range(streams):
                    value = value + comb[s, j, k] * X[s, j, d]
                T.buffer_store(out, value, [s, k, d])

    names = ("X", "y", "post", "comb", "out")
    func = prim_func(symbol, [(name, "float32") for name in names], body)
    return Kernel(symbol, func, (None,) * 4)


def hand_written() -> Mapping[str, Override]:
    """By the op they do."""
    return {"hyper_post": hyper_post}
