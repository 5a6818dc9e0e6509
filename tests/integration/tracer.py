"""Raises an exception at a chosen instruction of the package.

A signal handler may raise between any two instructions. With a tracer a test can raise at each instruction in turn.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import redlock

_PACKAGE = str(Path(redlock.__file__).parent)
_TOOL = 4


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
        """Do this work under the tracer."""
        # The end of a generator ends all exception handlers inside. After an exception at the last instructions of a
        # handler, CPython would count the handled exception as current, and its traceback would keep objects alive.
        next(self._traced(work), None)

    def _traced(self, work: Callable[[], object]) -> Iterator[None]:
        with _each_instruction(self._reached, only=self._at.code if self._at else None):
            work()
        yield

    def _reached(self, frame: FrameType, offset: int) -> None:
        code = frame.f_code
        if self._within not in (None, code):
            return
        self._within = None
        if (self._at is not None and self._at != Place(code, offset)) or _closes(frame):
            return
        if self._left < 0:
            self.places.append(Place(code, offset))
        elif self._left == 0 and self.struck is None:
            self.struck = Place(code, offset)
            raise Interrupted
        else:
            self._left -= 1


def _is_traced(code: CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGE)


@contextmanager
def _each_instruction(reached: Callable[[FrameType, int], None], *, only: CodeType | None) -> Iterator[None]:
    """Call the function before each instruction of the package in this thread, or of this code only."""
    if sys.version_info < (3, 12):
        yield from _by_trace_function(reached, only)
    else:
        # A trace function would miss the first traced call of each function.
        yield from _by_monitoring(reached, only)


def _by_trace_function(reached: Callable[[FrameType, int], None], only: CodeType | None) -> Iterator[None]:
    def call(frame: FrameType, _event: str, _arg: object) -> Any:  # noqa: ANN401 - the type in typeshed is recursive
        if frame.f_code is not only if only else not _is_traced(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return instruction

    def instruction(frame: FrameType, event: str, _arg: object) -> Any:  # noqa: ANN401 - as above
        if event == "opcode":
            reached(frame, frame.f_lasti)
        return instruction

    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(None)


if sys.version_info >= (3, 12):

    def _by_monitoring(reached: Callable[[FrameType, int], None], only: CodeType | None) -> Iterator[None]:
        monitoring, thread = sys.monitoring, threading.get_ident()
        event = monitoring.events.INSTRUCTION

        def instruction(code: CodeType, offset: int) -> object:
            if not _is_traced(code):
                return monitoring.DISABLE
            if threading.get_ident() == thread:
                reached(sys._getframe(1), offset)
            return None

        monitoring.use_tool_id(_TOOL, "tracer")
        try:
            monitoring.register_callback(_TOOL, event, instruction)
            if only:
                monitoring.set_local_events(_TOOL, only, event)
            else:
                monitoring.set_events(_TOOL, event)
            yield
        finally:
            monitoring.set_events(_TOOL, 0)
            if only:
                monitoring.set_local_events(_TOOL, only, 0)
            monitoring.register_callback(_TOOL, event, None)
            monitoring.free_tool_id(_TOOL)


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
