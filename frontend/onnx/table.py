"""The table of ONNX operators: one row each, supported, decomposed, or refused with the reason.

A row is a function of a `Call` that emits primitives. Operators without a function whose meaning
ONNX itself gives as a function body are imported as that body (``bodies.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SUPPORTED, DECOMPOSED, BODY, FOLDED, REFUSED = (
    "supported", "decomposed", "by ONNX's own body", "constants only", "refused")


@dataclass(frozen=True)
class Row:
    """What the importer does with one operator; `note` says into what, or why not."""

    how: str
    note: str = ""
    emit: Callable[..., Any] | None = None


ROWS: dict[str, Row] = {}


def row(*names: str, how: str = SUPPORTED, note: str = "") -> Callable[[Any], Any]:
    """Fill the row of these operators with a function."""
    def put(function: Any) -> Any:
        for name in names:
            if name in ROWS:
                raise ValueError(f"operator {name} has two rows")
            ROWS[name] = Row(how, note, function)
        return function

    return put


def decomposed(*names: str, note: str) -> Callable[[Any], Any]:
    """As `row`, for what becomes several primitives."""
    return row(*names, how=DECOMPOSED, note=note)


def _say(how: str, note: str, names: str) -> None:
    for name in names.split():
        if name in ROWS:
            raise ValueError(f"operator {name} has two rows")
        ROWS[name] = Row(how, note)


_say(BODY, "imported in its place", """
    Attention RMSNormalization RotaryEmbedding GroupNormalization MeanVarianceNormalization
    Celu Mish Swish Shrink SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss
    DynamicQuantizeLinear HardSwish CenterCropPad PRelu""")
_say(FOLDED, "evaluated by onnx.reference when all inputs are constants", """
    BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift EyeLike Size NonZero
    BlackmanWindow HammingWindow HannWindow Constant Shape Atan Asin Acos
    Unique Compress""")
_say(DECOMPOSED, "the branch of a condition that is known when compiling", "If")
_say(REFUSED, "control flow over a subgraph; unroll or inline it before export", "Loop Scan")
_say(REFUSED, "its result is random", """
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial""")
_say(REFUSED, "strings are not tensors of numbers", """
    StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer""")
_say(REFUSED, "sequences and optionals are not tensors", """
    SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
    SequenceMap SplitToSequence ConcatFromSequence Optional OptionalGetElement
    OptionalHasElement""")
_say(REFUSED, "the size of its result depends on values", "NonMaxSuppression")
_say(REFUSED, "a recurrent layer is a loop", "RNN GRU LSTM")
_say(REFUSED, "an operator of image or audio models; not of transformers", """
    AffineGrid AveragePool Col2Im ConvTranspose DeformConv DFT GlobalLpPool
    GridSample ImageDecoder LpPool LRN MaxPool MaxRoiPool MaxUnpool MelWeightMatrix
    QLinearConv ConvInteger DepthToSpace SpaceToDepth Resize RoiAlign STFT Upsample
    ReverseSequence""")
_say(REFUSED, "no exporter of transformers that was tried writes it", """
    Det Hardmax LpNormalization Scatter TensorScatter""")


def support_table() -> str:
    """The markdown table of docs/onnx.md, from the rows: operators with one answer share a line."""
    lines = dict[tuple[str, str], list[str]]()
    for name, r in sorted(ROWS.items()):
        lines.setdefault((r.how, r.note), []).append(f"`{name}`")
    order = (SUPPORTED, DECOMPOSED, BODY, FOLDED, REFUSED)
    return "\n".join(["| operators | | how, or why not |", "|---|---|---|", *(
        f"| {' '.join(names)} | {how} | {note} |"
        for (how, note), names in sorted(lines.items(), key=lambda item: order.index(item[0][0])))])
