"""The numpy interpreter of the traced model against transformers."""

import pytest

pytest.importorskip("torch", reason="the oracle needs PyTorch: make oracle")
pytest.importorskip("transformers", reason="the oracle needs transformers 5.23: make oracle")

from oracle.cases import CASES, fresh_cases
from oracle.live import check, draw, measure, verdict

from support.backends import InterpreterBackend

BACKEND = InterpreterBackend()


@pytest.mark.parametrize("case", CASES + fresh_cases(4), ids=lambda case: case.name)
def test_every_route_gives_the_logits_of_transformers(case, tmp_path):
    """Whole prefill, chunkings and token by token; differences in tests/oracle/live.py."""
    assert not verdict(check(BACKEND, case, tmp_path), case)


@pytest.mark.parametrize("original", [True, False], ids=["saved", "module"])
@pytest.mark.parametrize("name", ["flash", "ratio_3_and_5"])
def test_reads_what_save_pretrained_writes(name, original, tmp_path):
    """A folder written by transformers itself, in both of its naming schemes."""
    case = next(case for case in CASES if case.name == name)
    drawn = draw(case)
    drawn.oracle.model.save_pretrained(tmp_path, save_original_format=original)
    model = BACKEND.open(tmp_path, case.context, case.chunk)
    assert not verdict(measure(model, drawn), case)
