"""The one exception every user mistake becomes: what, where, why, and what to try."""


class FirstlightError(Exception):
    """Something the user can mend; its text is four lines, ready to print.

    `code` is stable: F1xx checkpoint and config, F2xx IR, F3xx passes, F4xx code generation and
    targets, F5xx artifact and loading, F6xx sessions, F7xx command line and environment.

    >>> print(FirstlightError("F102", "tensor is missing", where="model.safetensors",
    ...                       why="the config asks for it", try_="download it again"))
    error[F102]: tensor is missing
      --> model.safetensors
      because: the config asks for it
      try:     download it again
    """

    def __init__(self, code: str, what: str, *, where: str, why: str, try_: str) -> None:
        self.code = code
        self.what = what
        self.where = where
        self.why = why
        self.try_ = try_
        super().__init__(
            f"error[{code}]: {what}\n  --> {where}\n  because: {why}\n  try:     {try_}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by field, so that the error survives a process pool."""
        return _rebuild, (self.code, self.what, self.where, self.why, self.try_)


def _rebuild(code: str, what: str, where: str, why: str, try_: str) -> FirstlightError:
    return FirstlightError(code, what, where=where, why=why, try_=try_)
