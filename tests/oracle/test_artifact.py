"""The compiled CPU artifact against transformers, and a session saved in the middle."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle needs PyTorch: make oracle")
pytest.importorskip("transformers", reason="the oracle needs transformers 5.23: make oracle")

from oracle.cases import CASES, fresh_cases
from oracle.live import draw, measure, verdict

from support.backends import ArtifactBackend


@pytest.mark.parametrize("case", CASES + fresh_cases(2), ids=lambda case: case.name)
def test_every_route_gives_the_logits_of_transformers(case, tmp_path):
    """Whole prefill, chunkings, token by token; then save, restore and fork, bit for bit."""
    drawn = draw(case)
    folder = drawn.write(tmp_path / "checkpoint")
    with ArtifactBackend(tmp_path).open(folder, case.context, case.chunk) as model:
        assert not verdict(measure(model, drawn), case)
        for cut in (1, len(drawn.ids) // 2):
            _copies_go_on_bit_for_bit(model, drawn.ids, cut, tmp_path / f"session_{cut}")


def _copies_go_on_bit_for_bit(model, ids, cut, path):
    session = model.session()
    session.prefill(ids[:cut])
    session.save(path)
    saw = [_finish(one, ids[cut:]) for one in (session.fork(), session, model.restore(path))]
    for rows in saw[1:]:
        assert np.array_equal(rows, saw[0])


def _finish(session, ids):
    first = session.decode(ids[0])
    return np.concatenate((first[None], session.prefill(ids[1:], all_logits=True)))
