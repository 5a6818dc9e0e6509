"""`redlock._background`: threads that sleep until they are due, and that no exception ends."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from redlock import NoThread, _threads
from redlock._background import Background, Callbacks
from redlock._clock import now_ms
from redlock._transport.background_releaser import BackgroundReleaser
from tests.no_threads import no_thread

LONG = 30.0


class Work:
    def __init__(self, *answers: float | BaseException | None) -> None:
        self._answers = list(answers)
        self.done = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []
        self.background = Background("test-background", self._do)

    def _do(self) -> float | None:
        self.threads.append(threading.current_thread())
        self.done.release()
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def is_done(self) -> bool:
        """Whether one more run happens."""
        return self.done.acquire(timeout=LONG)


def test_no_thread_inherits_context_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without a GIL starts a thread in a copy of the context of its starter, by default."""
    request = contextvars.ContextVar("request", default="none")
    seen: SimpleQueue[str] = SimpleQueue()

    class Heir(threading.Thread):
        def __init__(self, *, target: Callable[[], object], name: str, daemon: bool) -> None:
            super().__init__(target=contextvars.copy_context().run, args=(target,), name=name, daemon=daemon)

    monkeypatch.setattr(threading, "Thread", Heir)
    request.set("of the starter")
    for start in (_threads.start, _threads.start_for_application):
        start(lambda: seen.put(request.get()), "heir")
        assert seen.get(timeout=LONG) == "none"


def test_it_is_done_when_it_is_due_and_in_one_thread() -> None:
    work = Work(0.0, 0.001, LONG)
    work.background.wake(0)
    assert all(work.is_done() for _ in range(3))
    assert len(set(work.threads)) == 1
    work.background.stop()
    work.threads[0].join(LONG)
    assert not work.threads[0].is_alive()


def test_a_sleeping_thread_wakes_for_work_that_is_due_earlier() -> None:
    work = Work(10 * LONG, 10 * LONG)
    work.background.wake(0)
    assert work.is_done()
    while work.background._wakes_ms > now_ms() + 11 * LONG * 1000:
        pass
    work.background.wake(now_ms() + 1_000_000_000)
    assert work.background._bell.empty(), "it wakes up by itself long before"
    work.background.wake(now_ms())
    assert work.is_done()
    work.background.stop()


def test_no_exception_ends_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "redlock"):
        work = Work(SystemExit(1), ZeroDivisionError(), LONG)
        work.background.wake(0)
        assert all(work.is_done() for _ in range(3))
    assert [line for line in caplog.messages if "thread-failed" in line] == ["thread-failed name=test-background"] * 2
    work.background.stop()


def test_a_thread_that_ended_is_started_again() -> None:
    work = Work(LONG, LONG)
    work.background.wake(0)
    assert work.is_done()
    work.background.stop()
    work.threads[0].join(LONG)
    work.background.wake(0)
    assert work.is_done()
    work.background.stop()


def test_a_callback_that_blocks_delays_no_other() -> None:
    callbacks, blocked, called = Callbacks(), threading.Event(), threading.Event()
    callbacks.call("a", lambda: assert_(blocked.wait(LONG)))
    callbacks.call("b", called.set)
    assert called.wait(LONG)
    blocked.set()


def assert_(condition: bool) -> None:
    assert condition


def test_whatever_callbacks_raise_all_are_called(caplog: pytest.LogCaptureFixture) -> None:
    callbacks, called = Callbacks(), threading.Semaphore(0)

    def fails(how: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            called.release()
            how()

        return call

    with caplog.at_level(logging.CRITICAL, "redlock"):
        for _ in range(20):
            callbacks.call("a", fails(sys.exit))
            callbacks.call("a", fails(lambda: 1 / 0))
        assert all(called.acquire(timeout=LONG) for _ in range(40))


def test_many_callbacks_share_few_threads() -> None:
    callbacks, go_on, threads = Callbacks(), threading.Event(), list[threading.Thread]()
    called = threading.Semaphore(0)

    def call() -> None:
        threads.append(threading.current_thread())
        go_on.wait(LONG)
        called.release()

    for _ in range(100):
        callbacks.call("a", call)
    go_on.set()
    assert all(called.acquire(timeout=LONG) for _ in range(100))
    assert len(set(threads)) <= 8


class LateBell(SimpleQueue[None]):
    """A bell that is rung when the thread that was seen running has just ended."""

    def __init__(self, running: threading.Lock) -> None:
        self._running: threading.Lock | None = running

    def put(self, *_: object) -> None:
        """The first thread ends before the call of `ring`."""
        running, self._running = self._running, None
        if running is not None:
            running.release()
        super().put(None)


def test_a_thread_that_ends_as_work_comes_is_started_again() -> None:
    work = Work()
    work.background._bell = LateBell(work.background._running)
    work.background._running.acquire()
    work.background.wake(0)
    assert work.is_done()
    work.background.stop()


class UsedConnections:
    """The part of a set of connections that is looked at when a release is sent."""

    rounds = 1


def test_a_release_is_not_taken_as_watched_without_a_thread() -> None:
    releaser, links = BackgroundReleaser(), UsedConnections()
    for _ in range(2):
        with no_thread(), pytest.raises(NoThread):
            releaser.watch(links)  # type: ignore[arg-type]  # the part that it uses


def test_a_callback_without_a_thread_is_called_with_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """The call raises nothing: its caller has `LockLost` to raise."""
    callbacks, called = Callbacks(), threading.Semaphore(0)
    with no_thread():
        for _ in range(20):
            callbacks.call("r", called.release)
    assert caplog.text.count("on-lost-failed resource=r") == 20
    callbacks.call("r", called.release)
    for _ in range(21):
        assert called.acquire(timeout=LONG)


def test_a_coroutine_of_a_callback_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """As of a lambda that calls a coroutine function: nothing would run the coroutine."""
    callbacks, called = Callbacks(), threading.Event()

    async def never_runs() -> None:
        pytest.fail("a thread has no event loop")

    with caplog.at_level(logging.ERROR, "redlock"):
        callbacks.call("a", never_runs)
        callbacks.call("a", called.set)
        assert called.wait(LONG)
        # The places are free again once the log lines are written.
        assert all(place.turn(LONG) for place in callbacks._places)
    assert "on_lost returned a coroutine, which no event loop runs; use a plain function" in caplog.text


def test_a_subinterpreter_without_daemon_threads_says_so() -> None:
    interpreters = pytest.importorskip("_interpreters", reason="a module of Python 3.13 and later")
    interpreter = interpreters.create("isolated")
    try:
        failure = interpreters.exec(
            interpreter,
            f"import sys; sys.path[:] = {sys.path!r}\nfrom redlock import _threads\n_threads.start(print, 'x')",
        )
    finally:
        interpreters.destroy(interpreter)
    assert failure.type.__name__ == "ConfigurationError"
    assert failure.msg.startswith("the lock needs daemon threads, which this subinterpreter does not allow")
