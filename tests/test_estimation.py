"""`firstlight estimate`: the document, its labels, and what is refused."""

import json

import pytest
from click.testing import CliRunner

from firstlight.codegen.estimate import Point
from firstlight.estimation import estimate
from firstlight.measure.estimate import estimate_command
from firstlight.runtime.errors import FirstlightError
from support.sparse import FLASH


@pytest.fixture
def flash(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FLASH))
    return tmp_path / "config.json"


def test_the_document(flash):
    shown = CliRunner().invoke(estimate_command, [
        str(flash), "--target", "ascend-950pr", "--context", "131072", "--batch", "16", "--chips",
        "4", "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    tables = [key for key, value in document.items() if isinstance(value, dict)]
    assert tables
    assert all(key.endswith("_estimated") for key in tables)
    cards = list(document["decode_estimated"])
    assert cards[0] == document["card"] == "Ascend950PR_9579"
    assert {"Ascend950DT_9581", "H20", "H100", "H200"} < set(cards)
    assert document["layers_estimated"]["attn_csa_4"]["calls"] == 21
    rows = document["published"]
    assert len(rows) == 5
    for row in rows:
        assert row["ratio"] == pytest.approx(
            row["estimated"] / row["published_tokens_per_second"], abs=0.01)
        # a bound on what can be had: above what was measured, and not by an order of magnitude
        assert 1 < row["ratio"] < 3


def test_the_example_has_nothing_published(tiny_checkpoint):
    document = estimate(tiny_checkpoint, "ascend-950dt", Point(512, 2), 64, "mxfp8")
    assert document["published"] == []
    assert document["experts"] == "mxfp8"
    assert all(row["tokens_per_second_of_a_chip"] > 0
               for row in document["decode_estimated"].values())


@pytest.mark.parametrize(("arguments", "named"), [
    (("null", "", ""), "nothing is known of how fast 'null' is"),
    (("ascend-950pr", "", "Ascend950PR_1"), "no rates of a card 'Ascend950PR_1'"),
    (("ascend-950pr", "magic", ""), "in the way 'magic'"),
])
def test_what_is_not_known_is_refused(flash, arguments, named):
    target, way, card = arguments
    with pytest.raises(FirstlightError, match=named) as error:
        estimate(flash, target, Point(1024), 64, way, card)
    assert error.value.code == "F478"
