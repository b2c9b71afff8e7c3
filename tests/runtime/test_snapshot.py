"""Saved, restored and forked sessions continue bit for bit."""

import os

import numpy as np
import pytest

from firstlight.runtime import FirstlightError, Model, load
from firstlight.runtime.safetensors import SafetensorsFile
from support.fake_artifact import write_fake_artifact

IDS = [3, 5, 7, 1, 2, 9, 11, 12, 4, 4, 20, 27, 0]


@pytest.mark.parametrize("cut", range(len(IDS)))
def test_restored_and_forked_sessions_continue_bit_for_bit(model: Model, tmp_path, cut):
    s = model.session()
    if cut:
        s.prefill(IDS[:cut])
    s.save(tmp_path / "saved")
    twin, back = s.fork(), model.restore(str(tmp_path / "saved"))
    assert os.listdir(tmp_path) == ["saved"]
    assert s.position == twin.position == back.position == cut
    twin.prefill([8, 8, 8, 8])  # what a fork does stays its own
    want = s.prefill(IDS[cut:], all_logits=True)
    np.testing.assert_array_equal(back.prefill(IDS[cut:], all_logits=True), want)
    np.testing.assert_array_equal(want, model.session().prefill(IDS, all_logits=True)[cut:])
    other = model.session().prefill([*IDS[:cut], 8, 8, 8, 8, 1])
    np.testing.assert_array_equal(twin.prefill([1]), other)


def test_in_another_process_or_load(model: Model, toy, tmp_path):
    s = model.session()
    s.prefill(IDS)
    s.save(tmp_path / "s")
    with load(toy, threads=1) as again:
        np.testing.assert_array_equal(again.restore(tmp_path / "s").decode(3), s.decode(3))


def test_only_the_used_part_is_written(tmp_path):
    with load(write_fake_artifact(tmp_path / "a", context=1 << 20)) as model:
        s = model.session()
        s.prefill(IDS)
        s.save(tmp_path / "s")
        assert (tmp_path / "s").stat().st_size < 4096
        assert model.manifest.state_bytes > 1 << 20


def test_saving_replaces_whole_or_not_at_all(model: Model, tmp_path):
    s = model.session()
    s.prefill(IDS)
    path = tmp_path / "s"
    path.write_text("old")
    s.save(path)
    whole = path.read_bytes()
    s.save(path)
    assert path.read_bytes() == whole  # same session, same bytes
    for bad in (tmp_path / "missing" / "s", tmp_path):
        with pytest.raises(FirstlightError, match="F640"):
            s.save(bad)
    assert os.listdir(tmp_path) == ["s"]
    s.decode(1)


def test_only_a_regular_file_is_replaced(model: Model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(FirstlightError, match="F640"):
            model.session().save(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def code_of_restore(model: Model, path) -> str:
    with pytest.raises(FirstlightError) as caught:
        model.restore(path)
    return caught.value.code


def test_damaged_files_are_refused(model: Model, tmp_path):
    s = model.session()
    s.prefill(IDS)
    path = tmp_path / "s"
    s.save(path)
    raw = path.read_bytes()
    tensors = SafetensorsFile(path).tensors.values()
    assert code_of_restore(model, tmp_path / "none") == "F520"
    assert code_of_restore(model, tmp_path) == "F520"
    for cut in (0, 4, 100, len(raw) - 1):
        path.write_bytes(raw[:cut])
        assert code_of_restore(model, path) == "F521"
    start = raw.index(b'"position":"') + len('"position":"')
    data = [at for t in tensors for at in range(t.offset, t.offset + t.nbytes, 3)]
    for at in (start, start + 1, *data):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(FirstlightError):
            model.restore(path)
    path.write_bytes(raw)
    np.testing.assert_array_equal(model.restore(path).decode(1), s.decode(1))


def test_a_session_of_another_artifact_is_refused(model: Model, tmp_path):
    with load(write_fake_artifact(tmp_path / "a", context=63)) as other:
        s = other.session()
        s.prefill(IDS)
        s.save(tmp_path / "s")
    assert code_of_restore(model, tmp_path / "s") == "F641"
