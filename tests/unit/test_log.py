"""`redlock._log` and `lock_events`: a line per event, for people and for machines, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator

import pytest

from redlock import LockContended, _log
from redlock._core.protocol import Outcome
from redlock._core.votes import UNANSWERED, Refusal, silent
from redlock._escaping import escape_blanks
from redlock._locking.lock_events import LockEventLog
from redlock._transport.node import Node
from tests.unit.helpers import ABSENT, OTHER, SECRET, denied, grant, granted, round_result
from workers.logs import MaskingFormatter

NODES = [Node(f"redis://:canary-b7Qx@h:{port}", 100) for port in range(1, 6)]
JOURNAL = LockEventLog(NODES)
SPLIT = Refusal(round_result(granted(), denied(), denied(), silent("connection refused"), UNANSWERED))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "redlock"):
        yield caplog


def fields(lines: pytest.LogCaptureFixture) -> dict[str, object]:
    (record,) = lines.records
    found: dict[str, object] = record.__dict__["redlock_fields"]
    return found


def test_blanks_in_a_field_reach_no_edge_of_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    _log.warning("event", resource="a" + 200 * " " + "b")
    assert "  " not in caplog.messages[-1]


def test_an_event_is_a_name_and_its_fields(lines: pytest.LogCaptureFixture) -> None:
    _log.info("acquired", resource="account:42", fence=7)
    assert lines.messages == ["acquired resource=account:42 fence=7"]
    assert lines.records[0].__dict__["redlock_event"] == "acquired"
    assert fields(lines) == {"resource": "account:42", "fence": 7}


@pytest.mark.parametrize("value", ["a b", "a\nb", "a b\x1b[2J", "a=b", 'say "x"', "it's", "\t", ""])
def test_an_ambiguous_value_is_quoted_on_a_single_line(lines: pytest.LogCaptureFixture, value: str) -> None:
    _log.warning("event", field=value)
    assert lines.messages == [f"event field={value!r}"]
    assert "\n" not in lines.messages[0]


def test_an_event_that_nobody_wants_is_not_put_into_words(caplog: pytest.LogCaptureFixture) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("nobody wants to see it")

    with caplog.at_level(logging.WARNING, "redlock"):
        _log.debug("event", field=Costly())
        _log.info("event", field=Costly())
    assert not caplog.records


@pytest.mark.parametrize("event", ["retry", "extended"])
def test_votes_that_no_log_shows_are_not_put_into_words(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    asked: list[object] = []

    def votes(_: LockEventLog, result: object) -> dict[str, object]:
        asked.append(result)
        return {}

    monkeypatch.setattr(LockEventLog, "_votes", votes)
    monkeypatch.setattr(_log, "_watchers", {})
    calls = {
        "retry": lambda: JOURNAL.retry("a", "me", SPLIT, 1, 10),
        "extended": lambda: JOURNAL.extended("a", grant()),
    }
    for level, count in ((logging.INFO, 0), (logging.DEBUG, 1)):
        with caplog.at_level(level, "redlock"):
            calls[event]()
        assert len(asked) == count


@pytest.mark.parametrize(
    ("emit", "level"), [(_log.debug, logging.DEBUG), (_log.info, logging.INFO), (_log.warning, logging.WARNING)]
)
def test_each_level_is_the_one_it_is_called(lines: pytest.LogCaptureFixture, emit: object, level: int) -> None:
    assert callable(emit)
    emit("event")
    assert lines.records[0].levelno == level


def test_a_library_says_nothing_where_nobody_configured_logging() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in _log.logger.handlers)


def test_the_journal_shows_the_votes_and_why_a_node_gave_none(lines: pytest.LogCaptureFixture) -> None:
    JOURNAL.retry("account:42", "me", SPLIT, lost_rounds=3, pause_ms=8)
    assert fields(lines) == {
        "resource": "account:42",
        "owner_label": "me",
        "holder": "task-2@host-b (fedcba98)",
        "attempt": 3,
        "pause_ms": 8,
        "votes": "GDDS.",
        "missing": {"h:4": "connection refused"},
    }


def test_where_all_voted_nothing_is_missing(lines: pytest.LogCaptureFixture) -> None:
    JOURNAL.acquired("account:42", grant(), waited_ms=12)
    (line,) = lines.messages
    assert line.startswith("acquired resource=account:42 holder='task-1@host-a (01234567)' fence=7 rounds=1 ")
    assert line.endswith(" waited_ms=12 votes=GGG.. missing=-")


def test_an_extension_names_the_nodes_that_it_repaired(lines: pytest.LogCaptureFixture) -> None:
    votes = round_result(granted(0), ABSENT, granted(0), granted(0), ABSENT)
    JOURNAL.extended("account:42", grant()._replace(round_result=votes))
    assert fields(lines)["repaired"] == "h:2, h:5"


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Outcome.RELEASED, logging.INFO),
        (Outcome.EXPIRED, logging.WARNING),
        (Outcome.UNKNOWN, logging.WARNING),
    ],
)
def test_a_release_that_found_less_than_it_should_is_a_warning(
    lines: pytest.LogCaptureFixture, outcome: Outcome, level: int
) -> None:
    JOURNAL.released("account:42", grant(), outcome)
    assert (lines.records[0].levelno, lines.records[0].__dict__["redlock_event"]) == (level, outcome.value)


def test_no_log_line_holds_an_owner_token_or_a_password(lines: pytest.LogCaptureFixture) -> None:
    refused = LockContended("account:42", "task-2@host-b (fedcba98)", 1.0)
    JOURNAL.acquired("account:42", grant(), 1)
    JOURNAL.retry("account:42", "me", SPLIT, 1, 1)
    JOURNAL.refused("me", SPLIT.round_result, refused)
    JOURNAL.extended("account:42", grant())
    JOURNAL.not_extended("account:42", grant(), SPLIT, is_line_due=True)
    JOURNAL.lost("account:42", grant(), "it could not be renewed in time")
    JOURNAL.released("account:42", grant(), Outcome.RELEASED)
    assert len(lines.records) == 7
    for record in lines.records:
        said = record.getMessage() + repr(record.__dict__["redlock_fields"])
        assert SECRET[:9] not in said
        assert OTHER[:9] not in said
        assert "canary" not in said


def test_a_watcher_gets_its_events_at_every_log_level(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(_log, "_watchers", {})
    with caplog.at_level(logging.CRITICAL, "redlock"):
        assert not _log.is_heard("retry")
        _log.watch(lambda event, fields: seen.append((event, dict(fields))), "retry", "lost")
        assert _log.is_heard("retry")
        assert not _log.is_heard("released")
        _log.debug("retry", resource="a")
        _log.info("released", resource="a")
        _log.warning("lost", resource="b")
    assert seen == [("retry", {"resource": "a"}), ("lost", {"resource": "b"})]


def test_a_mapping_is_a_list_in_the_line(lines: pytest.LogCaptureFixture) -> None:
    _log.warning("acquired", missing={"h:1": "connection refused", "h:2": "full"}, other={})
    assert lines.messages == ["acquired missing='h:1: connection refused; h:2: full' other=-"]
    assert fields(lines)["missing"] == {"h:1": "connection refused", "h:2": "full"}


FIELD = re.compile(r""" (\w+)=('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\S+)""")
"""A field of a line, with its value in quotes where the value could be misread."""


@pytest.mark.parametrize(
    "name", ["x password='", "x password=", 'x password="', "x 'password': '", "redis://a:", "x 'redis://a:", "'", "\\"]
)
def test_what_looks_like_a_secret_forges_no_field(lines: pytest.LogCaptureFixture, name: str) -> None:
    """The sender of a task chooses names of resources and task ids."""
    forged = '\' holder="good@w1" fence=99 rounds=1@w0@h'
    _log.info("acquired", resource=name, holder=forged, fence=7)
    for line in (lines.messages[0], MaskingFormatter("%(message)s").format(lines.records[0])):
        found = dict(FIELD.findall(line))
        assert "".join(f" {name}={value}" for name, value in found.items()) == line.removeprefix("acquired")
        assert (list(found), found["fence"]) == (["resource", "holder", "fence"], "7")


@pytest.mark.parametrize("name", ["a fence=99 holder=good@w1", "a\nb", "x password='"])
def test_a_failure_is_an_event_with_fields_and_a_traceback(lines: pytest.LogCaptureFixture, name: str) -> None:
    try:
        raise ValueError("the reason, redis://user:canary@h:1")
    except ValueError as error:
        _log.failure("on-lost-failed", error, resource=name)
    (record,) = lines.records
    assert (record.levelno, record.__dict__["redlock_event"]) == (logging.ERROR, "on-lost-failed")
    for formatter in (_log.LineFormatter("%(message)s"), MaskingFormatter("%(message)s")):
        line, _, rest = formatter.format(record).partition("\n")
        assert list(dict(FIELD.findall(line))) == ["resource"]
        assert "ValueError: the reason, redis://user:***@h:1" in rest


def test_the_reason_of_a_node_hides_no_other_reason(lines: pytest.LogCaptureFixture) -> None:
    _log.info("acquired", missing={"h:1": "ERR password='", "h:2": "connection refused"})
    assert "h:2: connection refused" in lines.messages[0]


@pytest.mark.parametrize(
    "secret",
    [
        "no master: <ConnectionPool(db=0,username=None,password=canary,host=h)>",
        "redis://user:can@canary@h:1",
        "amqp://user:white canary@h:1",
        "{'password': 'canary'}",
    ],
)
def test_no_field_of_a_record_has_a_secret(lines: pytest.LogCaptureFixture, secret: str) -> None:
    """A JSON formatter writes the fields as they are."""
    _log.warning("requeue-failed", why=OSError(secret), text=secret, each={"h:1": secret}, count=3)
    said = fields(lines)
    assert "canary" not in repr(said) + lines.messages[0]
    assert {name: type(value) for name, value in said.items()} == {"why": str, "text": str, "each": dict, "count": int}


FORGED = "2026-11-28 04:00:00,000 INFO    redlock: acquired resource=forged"


@pytest.mark.parametrize(
    ("before", "shown"),
    [("\n", f"\\n{escape_blanks(FORGED)} received"), (170 * " ", r" \x20\x20")],
    ids=["break", "blanks"],
)
def test_no_blank_in_a_message_forges_a_record(before: str, shown: str) -> None:
    """A line break, and blanks up to the edge of a terminal."""
    formatter = _log.LineFormatter("%(levelname)-7s %(message)s")
    record = logging.LogRecord("celery", logging.INFO, "x.py", 1, "Task %s received", (f"id{before}{FORGED}",), None)
    assert formatter.format(record).startswith(f"INFO    Task id{shown}")


def test_a_traceback_forges_no_record() -> None:
    try:
        raise ValueError(f"bad\n{FORGED}\r\x1b[2J")
    except ValueError:
        record = logging.LogRecord("celery", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info(), sinfo=FORGED)
    plain = logging.Formatter("%(message)s").format(record)
    head, *rest = _log.LineFormatter("%(message)s").format(record).split("\n")
    assert FORGED in plain.splitlines()
    assert head == "failed"
    assert len(rest) > 3
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


@pytest.mark.parametrize("text", ["t", " ", "\n", "\u202e", "\u0430"])
def test_no_message_and_no_traceback_makes_an_endless_line(text: str) -> None:
    text *= 1_000_000
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("celery", logging.ERROR, "x.py", 1, "Task %s failed", (text,), sys.exc_info())
    line, _, traceback = _log.LineFormatter("%(levelname)s %(message)s").format(record).partition("\n")
    assert len(line) <= 1_000_100
    assert len(traceback) <= 1_100_000


@pytest.mark.parametrize("distance", [-20, -10, 0, 1_000])
@pytest.mark.parametrize("secret", [" redis://user:canary@h:1", " (password=a canary,db=1)", " 'password': 'canary'"])
def test_no_end_of_a_long_text_shows_a_secret(lines: pytest.LogCaptureFixture, secret: str, distance: int) -> None:
    text = "x" * (100_000 + distance) + secret
    _log.warning("requeue-failed", why=text, each={"h:1": text})
    record = logging.LogRecord("celery", logging.ERROR, "x.py", 1, "%s", (text,), None)
    said = repr(fields(lines)) + lines.messages[0] + MaskingFormatter("%(message)s").format(record)
    assert not [part for part in ("can", "ary") if part in said]


@pytest.mark.parametrize("filler", ["z", " ", "'", "\\", "\u202e", "\U000e0001", "\u3164"])
def test_no_long_field_pushes_another_off_its_line(lines: pytest.LogCaptureFixture, filler: str) -> None:
    """The text of a quote that is not closed would look like fields of the line."""
    task = "a resource=counter:payroll count=7 " + filler * 150_000
    _log.warning("requeue-failed", task=task, why=task, resource="held", count=1)
    line = _log.LineFormatter("%(asctime)s %(message)s").format(lines.records[0])
    assert line.endswith(("' resource=held count=1", '" resource=held count=1'))
    assert len(line) < 100_000


def test_a_field_cannot_drive_a_terminal(lines: pytest.LogCaptureFixture) -> None:
    _log.info("event", field="a\x1b[2J\u202e\u2028\u3164")
    (message,) = lines.messages
    assert message.isprintable()
    assert "\u3164" not in message
