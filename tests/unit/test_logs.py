"""`workers.logs`: no line holds the password of an address."""

from __future__ import annotations

import logging
import sys

import pytest

from workers import logs
from workers.logs import MaskingFormatter

FORMATTER = MaskingFormatter("%(message)s")


def line(message: str, *arguments: object) -> str:
    return FORMATTER.format(logging.LogRecord("x", logging.INFO, "x.py", 1, message, arguments, None))


@pytest.mark.parametrize(
    "address",
    [
        "redis://:canary@h:1/0",
        "redis://user:canary@h:1",
        "redis://user:can%40canary@h:1",
        "redis://user:can@canary@h:1",
        "redis://user:can/canary@h:1",
        "rediss://user:canary@[::1]:1",
        "unix://user:canary@/run/a.sock",
        "unix:///run/a.sock?db=1&password=canary",
        "redis://h:1?password=canary&db=1",
        "amqp://guest:canary@h//",
        "'redis://user:canary@h:1'",
        "{'url': 'redis://user:canary@h:1', 'mail': 'me@h'}",
        "redis://:canary@h:1,redis://:canary@h:2",
        "redis://user:it'scanary@h:1",
    ],
)
def test_a_password_is_masked_whoever_wrote_it(address: str) -> None:
    assert "canary" not in line(f"Connected to {address}.")
    assert "canary" not in line("Connected to %s.", address)


@pytest.mark.parametrize(
    "text",
    [
        "redis://h:1/0",
        "redis://user@h:1/0",
        "acquired resource=account:42 holder='task-1@host (01234567)'",
        "see http://h:5555/task/1, or ask me@h",
        "unix:///run/a.sock?db=1",
    ],
)
def test_what_is_no_password_is_left_as_it_is(text: str) -> None:
    assert line(text) == text


def test_what_stands_round_a_password_can_still_be_read() -> None:
    assert line("broker redis://user:canary@h:1/0 is down") == "broker redis://user:***@h:1/0 is down"


def test_a_traceback_is_masked_and_no_task_id_hides_it() -> None:
    record = logging.LogRecord("celery", logging.ERROR, "x.py", 1, "Task t[%s] failed", ("x password='",), None)
    try:
        raise ValueError("the reason, redis://user:canary@h:1")
    except ValueError:
        record.exc_info = sys.exc_info()
    text = FORMATTER.format(record)
    assert "ValueError: the reason, redis://user:***@h:1" in text
    assert "canary" not in text


@pytest.mark.parametrize("kind", [logs.Console, logs.WholeLines])
def test_a_line_that_cannot_be_written_shows_no_password(
    kind: type[logging.Handler], capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk. The report of logging has the arguments and the error of the line as they are."""
    record = logging.LogRecord("celery", logging.ERROR, "x.py", 1, "can't use %s", ("redis://user:canary@h:1",), None)
    try:
        raise OSError("no space for redis://user:canary@h:1\nforged")
    except OSError:
        kind.handleError(object.__new__(kind), record)
    said = "a line of celery was not logged: OSError: no space for redis://user:***@h:1\\nforged\n"
    assert capfd.readouterr().err == said
