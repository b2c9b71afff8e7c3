"""Transformers that torch's exporters write, imported, compiled and run beside onnxruntime."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")
ort = pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")
pytest.importorskip("torch", reason="the oracle needs PyTorch: make oracle")
pytest.importorskip("transformers", reason="the oracle needs transformers 5.23: make oracle")

from firstlight.codegen.compile import CompileOptions  # noqa: E402
from firstlight.onnx_compiler import compile_onnx  # noqa: E402
from firstlight.runtime import load  # noqa: E402
from support.onnx_exports import EXPORTS  # noqa: E402
from support.simt import needs_opencl  # noqa: E402

LIMIT = 1e-4


@pytest.fixture(scope="module", params=[
    ("encoder", False), ("encoder", True), ("decoder", False), ("decoder", True), ("experts", True)
], ids=lambda p: f"{p[0]}-{'new' if p[1] else 'old'}-exporter")
def exported(request, tmp_path_factory):
    """The export, and its file. The old exporter has no RMSNorm, so no experts."""
    name, new = request.param
    if new:
        pytest.importorskip("onnxscript", reason="torch's new exporter needs onnxscript")
    export = EXPORTS[name]()
    path = tmp_path_factory.mktemp(name) / "m.onnx"
    export.write(path, new)
    return export, path


def compiled(path, out, sizes, target="cpu-x86-64-v3"):
    names = sorted({d.dim_param for i in onnx.load(path, load_external_data=False).graph.input
                    for d in i.type.tensor_type.shape.dim if d.dim_param})
    compile_onnx(path, out, CompileOptions(target=target), dict(zip(names, sizes, strict=True)))
    return load(out)


def check(model, path, feeds):
    wanted = ort.InferenceSession(path).run(None, feeds)
    for (name, found), want in zip(model.run(feeds).items(), wanted, strict=True):
        assert np.abs(found - want).max() < LIMIT, name


def test_sizes_stay_open_as_exported(exported, tmp_path):
    export, path = exported
    with compiled(path, tmp_path / "out", export.sizes.values()) as model:
        check(model, path, export.feeds())
        for n in (2, 13) if export.sizes else ():
            check(model, path, export.resized(n))


def test_sizes_fixed(exported, tmp_path):
    export, path = exported
    if not export.sizes:
        pytest.skip("they are fixed in the file")
    with compiled(path, tmp_path / "out", [str(export.count)]) as model:
        check(model, path, export.feeds())


@pytest.mark.slow
def test_through_opencl(exported, tmp_path):
    needs_opencl()
    export, path = exported
    with compiled(path, tmp_path / "out", export.sizes.values(), "opencl") as model:
        check(model, path, export.feeds())


def test_a_decoder_keeps_what_it_was_given(tmp_path):
    """Runs leave nothing behind, and what earlier calls kept comes out as it went in."""
    whole = EXPORTS["decoder"]()
    whole.write(tmp_path / "m.onnx", False)
    with compiled(tmp_path / "m.onnx", tmp_path / "out", []) as model:
        first, again = model.run(whole.feeds()), model.run(whole.feeds())
    assert all(np.array_equal(first[k], again[k]) for k in first)
    for name, old in whole.feeds().items():
        if name.startswith("past"):
            kept = first[name.replace("past", "present")]
            assert np.array_equal(kept[:, :, :old.shape[2]], old)
