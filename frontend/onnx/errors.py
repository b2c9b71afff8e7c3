"""The errors of the ONNX importer."""

from __future__ import annotations

from firstlight.runtime.errors import FirstlightError


class Refused(Exception):
    """Raised by rows of the table: the node is well formed, and cannot be imported."""


def _error(code: str, what: str, where: str, why: str, try_: str) -> FirstlightError:
    """Names are the file's: what would leave the line, or move a terminal's cursor, becomes "?"."""
    def line(text: str) -> str:
        return "".join(c if c.isprintable() else "?" for c in text)

    return FirstlightError(code, what, where=line(where), why=line(why), try_=line(try_))


def broken(where: str, why: str) -> FirstlightError:
    """The file is no whole ONNX model."""
    return _error("F150", "this is no usable ONNX model", where, why,
                  "export the model again; `onnx.checker` has a second opinion")


def unsupported(where: str, why: str, try_: str = "docs/onnx.md lists what is supported"
                ) -> FirstlightError:
    """The model uses what the importer has not."""
    return _error("F151", "this ONNX model cannot be imported", where, why, try_)


def open_size(where: str, why: str, try_: str) -> FirstlightError:
    """A size is open that must be given with --dim."""
    return _error("F152", "a size of the ONNX model is open", where, why, try_)


def disagree(where: str, why: str) -> FirstlightError:
    """onnx.shape_inference and our own rules give different types."""
    return _error("F153", "ONNX and firstlight infer different types", where, why,
                  "export the model again; please report it if that is new")


def bad_data(where: str, why: str) -> FirstlightError:
    """An initialiser's bytes are not what its declaration says, or lie outside the folder."""
    return _error("F154", "a tensor of the ONNX model cannot be read", where, why,
                  "keep external data beside the model, as exported")
