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
    assert document["given"] == document["unknown"] == {}
    tables = {key for key, value in document.items() if isinstance(value, dict)}
    assert len(tables) > 6
    assert all(key.endswith("_estimated") for key in tables - {"given", "unknown"})
    cards = list(document["decode_estimated"])
    assert cards[0] == document["card"] == "Ascend950PR_9589"
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


def test_terms_and_ways_side_by_side(flash):
    """H20 and 950PR term by term; a way that keeps bytes and one that keeps vector cores free."""
    document = estimate(flash, "ascend-950pr", Point(131072, 16, chips=4), 4096)
    own, other = (document["decode_estimated"][name] for name in ("Ascend950PR_9589", "H20"))
    assert own["memory_ms"] > 2 * other["memory_ms"]            # 1.64 and 4.0 TB/s
    assert own["product_ms"] < other["product_ms"]              # 865 and 296 TFLOP/s
    ways = document["ways_estimated"]
    assert ways["fp4-unpack"] == own
    assert ways["mxfp8"]["memory_ms"] > 1.3 * own["memory_ms"]
    assert ways["extern"]["vector_ms"] < 0.1 * own["vector_ms"]
    assert document["work_estimated"]["bytes of a step"] == pytest.approx(
        own["memory_ms"] / 1e3 * 31 * 32 * 1.65e9, rel=0.2)     # but for short rows
    assert all(row["seconds"] > 0 for row in document["prefill_estimated"].values())


def test_a_chip_without_a_public_specification(flash):
    """Its terms are left out by name; what the user gives is used, and shown."""
    bare = estimate(flash, "cambricon-mlu590", Point(8192, 4), 512)
    row = bare["decode_estimated"]["MLU590"]
    assert row["tokens_per_second_of_a_chip"] is row["memory_ms"] is row["product_ms"] is None
    assert set(row["left_out"]) < set(bare["unknown"])
    assert {"memory", "vector", "bf16", "launch"} < set(bare["unknown"])
    assert bare["work_estimated"]["bytes of a step"] > 1e9
    given = {"memory": 2e12, "bf16": 3e14, "launch": 5e-6}
    some = estimate(flash, "cambricon-mlu590", Point(8192, 4), 512, given=given)
    row = some["decode_estimated"]["MLU590"]
    assert some["given"] == given
    assert set(some["unknown"]) == set(bare["unknown"]) - set(given)
    assert "memory" not in row["left_out"]
    assert "vector" in row["left_out"]
    assert row["memory_ms"] == pytest.approx(bare["work_estimated"]["bytes of a step"] / 2e9,
                                             rel=1e-3)
    assert row["vector_ms"] is None
    assert row["tokens_per_second_of_a_chip"] > 0


@pytest.mark.slow
def test_what_is_emitted_today(tiny_checkpoint):
    document = estimate(tiny_checkpoint, "ascend-950pr", Point(512, 8), 64, emitted=True)
    rows = document["one_sequence_as_emitted_estimated"]
    total = rows.pop("all")
    for key in total:
        assert total[key] == pytest.approx(sum(row[key] for row in rows.values()), abs=0.02)
    assert total["launches"] > total["calls"] > 50
    assert total["ms_as_emitted"] > total["ms_fused"] > 0
    assert all(row["bytes"] > 0 for row in rows.values())
    assert rows["linear"]["bytes"] < 1e7         # weights as stored, not as float32


@pytest.mark.parametrize("rate", ["memory", "memory=", "memory=-1", "memory=much", "speed=1"])
def test_rates_that_are_not_usable(flash, rate):
    shown = CliRunner().invoke(estimate_command, [
        str(flash), "--target", "cambricon-mlu590", "--rate", rate])
    assert shown.exit_code
    assert "memory=1.2e12" in shown.output or isinstance(shown.exception, FirstlightError)


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
