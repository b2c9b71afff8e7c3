"""Each rule of the language, broken on purpose: the linter names the line and the rule."""

import pytest

from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cambricon.lint import broken, broken_launch, check

GOOD = """__nram__ float k_nram[64];
__wram__ float k_wram[1024];

extern "C" __mlu_global__ void k(float *x, int32_t S) {
    if (__is_mpu()) {
        return;
    }
    float *t = (float *)(k_nram + 0);
    for (int32_t r = taskId; r < S; r += taskDim) {
        __sync_io();
        __memcpy_async(t, x + r, 256, GDRAM2NRAM);
        __bang_add(t, t, t, 64);
    }
    __sync_io();
    __bang_reshape_filter(t, x, 64, 1, 1, 16);
    __memcpy(k_wram, t, 4096, NRAM2WRAM);
    __bang_matmul(t, x, k_wram, 1, 16, 64);
    __bang_mul_scalar(t, t, 0.5f, 64);
    __sync_all_ipu();
}
"""


def test_right_text_breaks_no_rule():
    assert broken(GOOD) == []


@pytest.mark.parametrize(("old", "new", "line", "rule"), [
    ("0.5f", "0.5", 18, "a floating literal without f is a half"),
    ("0.5f", "1e-3", 18, "a floating literal without f is a half"),
    ("    float *t = (float *)(k_nram + 0);", "    float t[64];", 11, "memory on the stack"),
    ("__bang_add(t, t, t, 64)", "__bang_add(&S, t, t, 64)", 12, "memory on the stack"),
    ("__nram__ float k_nram", "float k_nram", 1, "a device global needs a word"),
    ("    if (__is_mpu()) {\n        return;\n    }\n", "", 5, "the memory core leaves first"),
    ("256, GDRAM2NRAM", "0, GDRAM2NRAM", 11, "a copy's size is more than zero"),
    ("256, GDRAM2NRAM", "256, GDRAM2NRAM, 256, 256, 65536", 11, "at most 65536 segments"),
    ("4096, NRAM2WRAM", "4092, NRAM2WRAM", 16, "multiples of 16 bytes"),
    ("k_wram, t, 4096", "k_wram + 16, t, 4096", 16, "no arithmetic on WRAM pointers"),
    ("k_wram, t, 4096", "k_wram, x, 4096", 16, "comes from reshape_filter"),
    ("x, k_wram, 1", "x, t, 1", 17, "was reshaped and copied to WRAM"),
    ("1, 16, 64)", "1, 9, 64)", 17, "a multiple of 64 bytes"),
    ("t, x, 64, 1, 1, 16", "t, x, 60, 1, 1, 16", 15, "a multiple of 64 columns"),
    ("__bang_add(t, t, t, 64)", "__bang_add(t, t, t, 0)", 12, "a count is more than zero"),
    ("        __bang_add(t, t, t, 64);", "        __sync_all_ipu();", 12, "not every task comes"),
    ("        __sync_io();\n", "        __sync_compute();\n", 11, "nobody waits for"),
    ("__bang_add(t, t, t, 64)", "k(x, S)", 12, "no recursion"),
])
def test_a_broken_rule_is_named_with_its_line(old, new, line, rule):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    if rule == "nobody waits for":      # the wait after the loop would do, too
        text = text.replace("    __sync_io();\n    __bang_reshape", "    __bang_reshape")
    assert any(n == line and rule in said for n, said in broken(text)), broken(text)


@pytest.mark.parametrize(("launch", "rule"), [
    ({"type": "union1", "dim": [4, 1, 1]}, ""),
    ({"type": "union1", "dim": [6, 1, 1]}, "a multiple of 4"),
    ({"type": "union2", "dim": [4, 1, 1]}, "a multiple of 8"),
    ({"type": "union3", "dim": [12, 1, 1]}, "no launch type"),
    ({"type": "block", "dim": [3, 0, 1]}, "no tasks"),
])
def test_launches(launch, rule):
    assert rule in broken_launch(launch)
    assert bool(broken_launch(launch)) == bool(rule)


def test_a_row_of_bf16_numbers_has_twice_as_many_of_them():
    narrow = GOOD.replace("float *t = (float *)(", "bfloat16_t *y = (bfloat16_t *)(")
    narrow = narrow.replace("t, x, k_wram", "t, y, k_wram")
    assert "a multiple of 64 bytes" in " ".join(rule for _, rule in broken(narrow))
    assert "a multiple of 64 bytes" not in " ".join(
        rule for _, rule in broken(narrow.replace("1, 16, 64)", "1, 32, 64)")))


def test_the_error_names_file_line_and_rule():
    with pytest.raises(FirstlightError, match="F408") as caught:
        check(GOOD.replace("0.5f", "0.5"), "k")
    assert caught.value.where == "k.mlu:18"
    assert "half" in caught.value.why
