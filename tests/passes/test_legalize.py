"""legalize."""

import pytest

from firstlight.ir.core import census
from firstlight.ir.registry import TABLE
from firstlight.passes import run_pipeline
from firstlight.passes.legalize import Legalize
from firstlight.runtime.errors import FirstlightError
from support.modules import composite, difference


def test_text_and_meaning(golden) -> None:
    before = composite("norm_rope", 1)
    after = run_pipeline(before, [Legalize(("rms_norm",))])
    golden("legalize", after)
    assert census(after)["rms_norm"] == 1
    assert difference(before, after) <= 1e-5


def test_a_target_that_lacks_everything_gets_primitives() -> None:
    for name in ("hyper_pre", "compress", "hybrid_attention", "expert_ffn"):
        after = run_pipeline(composite(name), "legalize")
        assert not any(TABLE[op].composite for op in census(after))


def test_it_says_what_is_lacking() -> None:
    assert Legalize(("rms_norm",)).lacking(composite("norm_rope")) == {"norm_rope": 1}
    assert Legalize(("norm_rope",)).lacking(composite("norm_rope")) == {}


def test_what_a_target_has_is_not_touched() -> None:
    before = composite("compress")
    assert str(Legalize(("compress",)).run(before)) == str(before)


@pytest.mark.parametrize("ops", ["nope", "rms_norm+nrom_rope"])
def test_names_of_no_op_are_refused(ops: str) -> None:
    """A typo would decompose what the target has."""
    with pytest.raises(FirstlightError, match=ops.split("+")[-1]) as caught:
        run_pipeline(composite("norm_rope"), f"legalize{{ops={ops}}}")
    assert caught.value.code == "F301"
    assert len(str(caught.value).splitlines()) == 4
