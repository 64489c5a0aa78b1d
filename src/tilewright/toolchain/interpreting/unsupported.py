"""The exception that says: this kernel cannot be interpreted here, which shows nothing about it."""

from __future__ import annotations


class NotInterpretableError(BaseException):
    """A kernel uses what has no plain twin here. Not an `Exception`: no candidate's handler takes it for a failure.

    Attributes:
        what: the operation or instruction, for people.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
