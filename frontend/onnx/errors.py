"""The errors of the ONNX importer."""

from __future__ import annotations

from firstlight.runtime.errors import FirstlightError


class Refused(Exception):
    """Raised by rows of the table: the node is well formed, and cannot be imported."""


def broken(where: str, why: str) -> FirstlightError:
    """The file is no whole ONNX model."""
    return FirstlightError("F150", "this is no usable ONNX model", where=where, why=why,
                           try_="export the model again; `onnx.checker` has a second opinion")


def unsupported(where: str, why: str, try_: str = "docs/onnx-import.md lists what is supported"
                ) -> FirstlightError:
    """The model uses what the importer has not."""
    return FirstlightError("F151", "this ONNX model cannot be imported", where=where, why=why,
                           try_=try_)


def open_size(where: str, why: str, try_: str) -> FirstlightError:
    """A size is open that must be given with --dim."""
    return FirstlightError("F152", "a size of the ONNX model is open", where=where, why=why,
                           try_=try_)


def disagree(where: str, why: str) -> FirstlightError:
    """onnx.shape_inference and our own rules give different types."""
    return FirstlightError("F153", "ONNX and firstlight infer different types", where=where,
                           why=why, try_="export the model again; please report it if that is new")


def bad_data(where: str, why: str) -> FirstlightError:
    """An initialiser's bytes are not what its declaration says, or lie outside the folder."""
    return FirstlightError("F154", "a tensor of the ONNX model cannot be read", where=where,
                           why=why, try_="keep external data beside the model, as exported")
