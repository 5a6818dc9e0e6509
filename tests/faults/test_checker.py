"""The checker finds each broken promise in an invented history."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from redlock._transport import codec
from redlock.testing.redis_server import Server
from tests.faults import accepted, checker
from tests.faults.accepted import Accepted
from tests.faults.history import Event, History, append
from tests.sim.records import Write


def history(*, fences: tuple[int, int] = (10, 11), starts: tuple[int, int] = (100, 300)) -> list[Event]:
    """Two operations, one after the other, each under a lease of its own of 100 microseconds."""
    found = []
    for number, (fence, start) in enumerate(zip(fences, starts, strict=True)):
        op, pid = f"op-{number}", 1000 + number
        lease = {"name": "hits", "fence": fence, "until": start + 100}
        found += [
            Event(start - 20, 1, "sent", op, {"name": "hits"}),
            Event(start - 10, pid, "invoke", op, {}),
            Event(start, pid, "grant", op, lease),
            Event(start + 10, pid, "open", op, lease | {"section": number + 1}),
            Event(start + 20, pid, "writing", op, lease | {"section": number + 1, "value": number + 1}),
            Event(start + 30, pid, "wrote", op, lease | {"section": number + 1}),
            Event(start + 80, pid, "leave", op, lease),
            Event(start + 90, pid, "ack", op, {}),
            Event(start + 91, pid, "end", op, {}),
        ]
    return sorted(found, key=lambda event: event.at)


FIRST, SECOND = Write("hits", 10, 1, "op-0", 1), Write("hits", 11, 2, "op-1", 2)


def test_a_history_in_which_all_is_well_has_no_violations() -> None:
    fine = Accepted([FIRST, SECOND], {"hits": 2}, [])
    assert checker.violations(history(), fine, keeps=True) == []
    assert checker.figures(history(), fine) == checker.Figures(2, 2, 0, 0, 0, 0, 0, 0, 2)


@pytest.mark.parametrize(
    ("writes", "counter", "says"),
    [
        ([FIRST], 1, "operation op-1 was lost"),
        ([FIRST], 1, "operation op-1 was acknowledged and never applied"),
        ([FIRST, SECOND], 1, "counter hits is 1, and 2 operations were applied"),
        ([FIRST, SECOND, SECOND], 3, "operation op-1 was applied 2 times"),
        ([SECOND, FIRST], 2, "accepted after"),
        ([FIRST, Write("hits", 11, 3, "op-1", 2)], 2, "op-1 was accepted in section 3"),
    ],
)
def test_what_the_store_should_not_have_done_is_seen(writes: list[Write], counter: int, says: str) -> None:
    found = checker.violations(history(), Accepted(writes, {"hits": counter}, []), keeps=True)
    assert any(says in what for what in found), found


def test_two_leases_at_once_are_seen_under_the_conditions() -> None:
    events, fine = history(starts=(100, 150)), Accepted([FIRST, SECOND], {"hits": 2}, [])
    assert any("two leases on 'hits'" in what for what in checker.violations(events, fine, keeps=True))
    assert checker.violations(events, fine, keeps=False) == []


@pytest.mark.parametrize(("fences", "says"), [((10, 10), "token 10 was given"), ((11, 10), "is not above")])
def test_tokens_that_do_not_grow_are_seen(fences: tuple[int, int], says: str) -> None:
    found = checker.violations(history(fences=fences), Accepted([], {}, []), keeps=True, settled=False)
    assert any(says in what for what in found), found


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    append(str(tmp_path), "sent", "op-0", {"name": "hits"})
    (path,) = tmp_path.glob("*.history")
    whole = path.read_bytes()
    seen = History(tmp_path)
    path.write_bytes(whole + b"[123,")
    assert [event.op for event in seen.events()] == ["op-0"]
    path.write_bytes(whole + b'[123,7,"end","op-0",{}]\n')
    assert [event.what for event in seen.events(op="op-0")] == ["end", "sent"]


def test_a_write_outside_the_open_section_is_seen_in_the_file(broker: Server) -> None:
    with Redis.from_url(f"{broker.url}/0") as redis:
        redis.hset("store:hits", mapping={"fence": 11, "owner": "b", "open": 2})
        redis.hset("store:hits", "value", "1")
        redis.set(codec.operation_key("store:hits", "op-0"), "10:1", px=60_000)
    found = accepted.read(broker.directory)
    assert found.counters == {"hits": 1}
    assert found.writes == [Write("hits", 10, 2, "op-0", 1)]
    assert found.stale == ["hits: op-0 wrote under 10 while 11 was open"]
