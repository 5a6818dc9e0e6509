"""Raises an exception at a chosen instruction of the package.

A signal handler may raise between any two instructions. With a trace function a test can raise at each instruction in
turn.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

_PACKAGE = str(Path(redlock.__file__).parent)


class Interrupted(BaseException):
    """An exception that can come at any moment, like the exception of a time limit."""


class Place(NamedTuple):
    """An instruction of the package."""

    code: CodeType
    offset: int

    def __str__(self) -> str:
        return f"{Path(self.code.co_filename).name}:{self.code.co_name}+{self.offset}"


class Tracer:
    """Counts the instructions of this thread.

    Args:
        strike_at: The number of the instruction, from 0, before which the tracer raises `Interrupted`; -1 for none.
            A place means the first execution of its instruction, and only the frames of its function are slow.
        within: Count from the first instruction of this function.
    """

    def __init__(self, strike_at: int | Place = -1, *, within: Callable[..., object] | None = None) -> None:
        self._within: CodeType | None = getattr(within, "__code__", None)
        self.places: list[Place] = []
        self.struck: Place | None = None
        self._at = strike_at if isinstance(strike_at, Place) else None
        self._left = 0 if isinstance(strike_at, Place) else strike_at

    def run(self, work: Callable[[], object]) -> None:
        """Do this work under the trace function."""
        # The end of a generator ends all exception handlers inside. After an exception at the last instructions of a
        # handler, CPython would count the handled exception as current, and its traceback would keep objects alive.
        next(self._traced(work), None)

    def _traced(self, work: Callable[[], object]) -> Iterator[None]:
        sys.settrace(self._call)
        try:
            work()
        finally:
            sys.settrace(None)
        yield

    def _call(self, frame: FrameType, _event: str, _arg: object) -> Any:  # noqa: ANN401 - the type in typeshed is recursive
        # The parser in Python stands for hiredis, which has no instructions to interrupt.
        if not frame.f_code.co_filename.startswith(_PACKAGE) or frame.f_code.co_filename.endswith("_resp.py"):
            return None
        if self._within not in (None, frame.f_code):
            return None
        self._within = None
        if self._at is not None and frame.f_code is not self._at.code:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._count if self._left < 0 else self._strike

    def _count(self, frame: FrameType, event: str, _arg: object) -> Any:  # noqa: ANN401 - the type in typeshed is recursive
        if event == "opcode" and not _closes(frame):
            self.places.append(Place(frame.f_code, frame.f_lasti))
        return self._count

    def _strike(self, frame: FrameType, event: str, _arg: object) -> Any:  # noqa: ANN401 - the type in typeshed is recursive
        if self._at is not None and frame.f_lasti != self._at.offset:
            return self._strike
        if event == "opcode" and not _closes(frame):
            if self._left == 0:
                self.struck = Place(frame.f_code, frame.f_lasti)
                raise Interrupted
            self._left -= 1
        return self._strike


def _closes(frame: FrameType) -> bool:
    """Whether this instruction belongs to the end of an unfinished generator expression.

    From Python 3.14 on, such an end has instructions of its own, without a line. CPython runs no signal handler there,
    and only reports an exception.
    """
    return frame.f_code.co_name == "<genexpr>" and frame.f_lineno is None


def instructions(work: Callable[[], object], *, within: Callable[..., object] | None = None) -> list[Place]:
    """The instructions that this work carries out, in order."""
    tracer = Tracer(within=within)
    tracer.run(work)
    return tracer.places
