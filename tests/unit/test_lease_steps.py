"""`redlock._locking.lease_steps`: every step of a lease with the votes that a test gives."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import pytest

from redlock import ConfigurationError, Lease, LockLost, NotHeld, QuorumUnavailable, Redlock, _log
from redlock._core.backoff import renewal_ms, retry_ms
from redlock._core.commands import Extend, Release, Repair, Round, Wait
from redlock._core.protocol import Outcome
from redlock._core.votes import RoundResult, Vote, deadline_ms
from redlock._inner_lease import InnerLease
from redlock._locking import lease_steps
from redlock._locking.renewal import _isolated
from tests.unit.helpers import ABSENT, DEAD, NAMES, denied, drive, grant, granted, round_result

NOW_MS, TTL_MS = 1_000_000, 5_000
CONNECTIONS: Any = object()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock of the steps, in a list that a test changes."""
    now = [NOW_MS]
    monkeypatch.setattr(lease_steps, "now_ms", lambda: now[0])
    return now


def held(client: Redlock, left_ms: int = 4_900, **options: Any) -> Lease:  # noqa: ANN401 - as `Redlock.lease`
    """A lease of 5 s that was acquired just now."""
    lease = client.lease(NAMES, **{"renew": True} | options)
    lease._grant, lease._acquired_ms = grant(NOW_MS + left_ms), NOW_MS
    return lease


def test_a_new_lease_has_the_options_of_its_lock(client: Redlock) -> None:
    told: list[object] = []
    lease = client.lease(("b", "a"), ttl_ms=4_000, owner_label="me", max_hold_ms=9_000, on_lost=told.append)
    assert (lease.names, lease.resource, lease._owner_label) == (("a", "b"), "a, b", "me")
    assert (lease.ttl_ms, lease._max_hold_ms, lease._on_lost) == (4_000, 9_000, told.append)
    assert (lease.waited_ms, lease.is_held, lease.is_lost, lease._connections) == (0, False, False, None)
    for read in (lambda: lease.fence, lease.remaining):
        with pytest.raises(NotHeld) as refused:
            read()
        assert str(refused.value) == "lock 'a, b' is not held here"
    with pytest.raises(NotHeld, match="was not released"):
        lease.outcome()
    for renew in (True, False):
        for is_block in (True, False):
            lease = client.lease(NAMES, renew=renew, is_block=is_block)
            assert (lease._is_renewed, lease._is_block) == (renew and is_block, is_block)


def test_an_extension_adds_to_the_time_or_replaces_it(client: Redlock) -> None:
    lease = held(client)
    assert lease._extension_seconds(2.0, replace_ttl=True) == 2.0
    assert lease._extension_seconds(2.0, replace_ttl=False) == 6.9
    with pytest.raises(ConfigurationError, match=r"^additional_time is -1"):
        lease._extension_seconds(-1, replace_ttl=True)


def replies(*votes: Vote) -> RoundResult:
    """The result of a round that took no time."""
    return round_result(*votes, sent_ms=NOW_MS, done_ms=NOW_MS)


def renewed(lease: Lease, *results: RoundResult) -> tuple[int | None, list[Round]]:
    """Renew the lease. The next step may begin after that."""
    ended = drive(lease._renewal(CONNECTIONS), *results)
    turn = lease._mutex.turn()
    assert turn is not None, "the turn has ended"
    turn.end()
    return ended


ALL_GRANT = replies(*[granted(fence=0)] * 5)
NO_QUORUM = replies(granted(), granted(), DEAD, DEAD, DEAD)
GONE = replies(granted(), granted(), *[ABSENT] * 3)
SPLIT = replies(granted(), granted(), ABSENT, ABSENT, DEAD)


@pytest.mark.parametrize("left_ms", [-1, 0, 1])
def test_a_lease_is_valid_before_its_deadline_and_no_longer(client: Redlock, left_ms: int) -> None:
    lease = held(client, left_ms)
    assert lease.is_lost == (left_ms < 1)
    assert lease.remaining() == max(0, left_ms) / 1000
    if left_ms == 1:
        lease.ensure_valid()
    else:
        with pytest.raises(LockLost, match="its 5 s are over"):
            lease.ensure_valid()


def test_a_lease_that_a_quorum_has_lost_is_over_at_once(client: Redlock) -> None:
    lease = held(client)
    with pytest.raises(LockLost, match="no longer has it"):
        drive(lease._extending(TTL_MS, Wait.DECIDED), GONE)
    assert (lease.is_lost, lease.remaining(), lease.is_held) == (True, 0.0, True)
    with pytest.raises(LockLost, match="no longer has it"):
        lease.ensure_valid()
    with pytest.raises(LockLost, match="no longer has it"):
        next(lease._extending(TTL_MS, Wait.DECIDED))


def test_a_failed_extension_leaves_a_valid_lease(client: Redlock) -> None:
    lease = held(client)
    for result, error in ((SPLIT, LockLost), (NO_QUORUM, QuorumUnavailable)):
        with pytest.raises(error) as failed:
            drive(lease._extending(TTL_MS, Wait.DECIDED), result)
        if error is LockLost:
            assert failed.value.args == ("account:42", "it could not be extended on a quorum of nodes")
        assert (lease.is_lost, lease.remaining()) == (False, 4.9)


def test_an_expired_lease_asks_for_no_extension(client: Redlock) -> None:
    with pytest.raises(LockLost):
        next(held(client, 0)._extending(TTL_MS, Wait.DECIDED))


def test_a_lease_belongs_to_the_process_that_took_it(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = held(client)
    monkeypatch.setattr("redlock._process._pid", -1)
    assert not lease.is_held
    for read in (lambda: lease.fence, lambda: lease.owner, lease.remaining):
        with pytest.raises(NotHeld) as refused:
            read()
        assert str(refused.value) == "lock 'account:42' belongs to the process that took it, not to its child"


def test_a_renewal_extends_and_repairs_on_all_nodes(client: Redlock) -> None:
    lease = held(client, 4_000)
    due_ms, rounds = renewed(lease, replies(*[granted(fence=0)] * 4, ABSENT))
    assert due_ms == NOW_MS + renewal_ms(TTL_MS)
    assert [type(round_.command) for round_ in rounds] == [Extend, Repair]
    assert rounds[0].wait is Wait.ALL, "only the replies of all nodes show where a key is missing"
    assert rounds[1].to == (4,)
    assert lease.remaining() == (deadline_ms(TTL_MS, NOW_MS) - NOW_MS) / 1000
    assert lease._connections is CONNECTIONS, "the release follows the extension down the same connections"


@pytest.mark.parametrize(("left_ms", "wait"), [(2_500, Wait.ALL), (2_499, Wait.DECIDED)])
def test_a_late_renewal_waits_for_no_silent_node(client: Redlock, left_ms: int, wait: Wait) -> None:
    assert renewed(held(client, left_ms), ALL_GRANT)[1][0].wait is wait


@pytest.mark.parametrize("result", [SPLIT, NO_QUORUM], ids=["split", "no quorum"])
def test_a_renewal_that_failed_is_tried_again_soon(client: Redlock, result: RoundResult) -> None:
    lease = held(client, 3_000)
    assert renewed(lease, result)[0] == NOW_MS + retry_ms(3_000)
    assert not lease.is_lost


def test_a_lease_that_is_lost_is_renewed_no_more(client: Redlock) -> None:
    assert renewed(held(client), GONE)[0] is None
    lease = held(client, 0)
    assert renewed(lease) == (None, [])
    assert lease._lost == "it could not be renewed in time"


def test_the_end_of_a_lease_without_renewal_is_noticed(client: Redlock, clock: list[int]) -> None:
    lease = held(client, renew=False)
    assert renewed(lease) == (NOW_MS + 4_900, []), "it looks again when the deadline has come"
    clock[0] += 4_900
    assert renewed(lease) == (None, [])
    assert lease._lost == "its time was over"


@pytest.mark.parametrize("renew", [True, False])
def test_a_lease_is_watched_once_and_not_beside_its_renewal(
    client: Redlock, monkeypatch: pytest.MonkeyPatch, renew: bool
) -> None:
    lease, due = held(client, renew=renew), list[int]()
    monkeypatch.setattr(lease._context.renewal, "add", lambda _lease, due_ms: due.append(due_ms))
    for on_lost in (None, print, print):
        InnerLease(lease, on_lost, is_block=True).acquire(None)
    assert due == ([] if renew else [NOW_MS + 4_900])


def test_a_loss_has_one_reason_and_one_line_in_the_log(
    client: Redlock, clock: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redlock")
    lease = client.lease(NAMES)
    lease._declare_lost("nothing was held")
    assert not lease.is_lost
    lease = held(client)
    renewed(lease, GONE)
    clock[0] += 5_000
    renewed(lease)
    assert lease._lost == "a quorum of nodes no longer has it"
    assert [line.partition(" ")[0] for line in caplog.messages] == ["not-extended", "lost"]


def test_failed_renewals_of_a_lease_are_a_line_a_second(
    client: Redlock, clock: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage a lease is tried eight times a second. Metrics count all."""
    counted: list[str] = []
    monkeypatch.setattr(_log, "_watchers", {"not-extended": [lambda event, _: counted.append(event)]})
    leases = held(client), held(client)
    for since_ms in (0, 999, 1_000, 1_999):
        clock[0] = NOW_MS + since_ms
        for lease in leases:
            renewed(lease, NO_QUORUM)
    assert len(counted) == 8
    assert [line.partition(" ")[0] for line in caplog.messages] == ["not-extended"] * 4


def test_a_lease_that_other_code_uses_is_renewed_a_moment_later(client: Redlock) -> None:
    lease = held(client)
    turn = lease._mutex.turn()
    assert drive(lease._renewal(CONNECTIONS)) == (NOW_MS + 10, [])
    assert turn is not None


def test_a_renewal_finishes_a_release_that_was_begun(client: Redlock) -> None:
    lease = held(client)
    lease._is_leaving = True
    due_ms, rounds = renewed(lease, replies(*[granted()] * 5))
    assert due_ms is None
    assert [type(round_.command) for round_ in rounds] == [Release]
    assert (lease.is_held, lease.outcome()) == (False, Outcome.RELEASED)
    assert renewed(lease) == (None, [])


def test_a_release_that_was_begun_is_no_loss_at_the_deadline(client: Redlock, clock: list[int]) -> None:
    told: list[object] = []
    lease = held(client, renew=False, on_lost=told.append)
    lease._is_leaving = True
    clock[0] += 5_000
    renewed(lease, replies(*[granted()] * 5))
    lease._report_loss()
    assert (told, lease.is_held, lease._lost) == ([], False, "")


@pytest.mark.parametrize("ahead_ms", [0, 1, 4_000], ids=["same millisecond", "1 ms", "4 s"])
def test_a_deadline_beyond_the_ttl_does_not_end_renewal(client: Redlock, ahead_ms: int) -> None:
    """As after an extension by hand, or where a renewal starts in the millisecond of the grant."""
    lease = held(client, deadline_ms(TTL_MS, 0) + ahead_ms)
    assert type(renewed(lease, ALL_GRANT)[1][0].command) is Extend
    assert not lease._stopped


def test_an_extension_by_hand_within_max_hold_is_renewed(client: Redlock) -> None:
    lease = held(client, 8_000, max_hold_ms=20_000)
    assert type(renewed(lease, ALL_GRANT)[1][0].command) is Extend


def test_max_hold_counts_from_the_acquisition(client: Redlock, clock: list[int]) -> None:
    lease = held(client, max_hold_ms=6_000)
    clock[0] += 2_000
    due_ms, rounds = renewed(lease, round_result(*[granted(fence=0)] * 5, sent_ms=clock[0], done_ms=clock[0]))
    assert rounds[0].command == Extend(NAMES, lease.owner, 4_000), "not beyond max_hold"
    assert due_ms == clock[0] + renewal_ms(4_000)


@pytest.mark.parametrize("left_ms", [deadline_ms(6_000, 0), 5_990])
def test_a_lease_ends_with_its_deadline_after_max_hold(client: Redlock, clock: list[int], left_ms: int) -> None:
    lease = held(client, left_ms, max_hold_ms=6_000)
    assert renewed(lease) == (NOW_MS + left_ms, []), "it looks again at the deadline"
    assert not lease.is_lost
    clock[0] += left_ms
    assert renewed(lease) == (None, [])
    assert lease._lost == "max_hold is over"


def inner(lease: Lease, *, is_block: bool, on_lost: Any = None) -> InnerLease:  # noqa: ANN401 - a function
    """An entry of a re-entrant block."""
    entry = InnerLease(lease, on_lost, is_block=is_block)
    entry._enter()
    return entry


def test_a_loss_is_reported_once_to_the_lease_and_its_entries(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    lease = held(client, on_lost=told.append)
    monkeypatch.setattr(client._context, "call", lambda _resource, on_lost, _context: on_lost())
    first, left = inner(lease, is_block=True, on_lost=told.append), inner(lease, is_block=True, on_lost=told.append)
    lease._report_loss()
    assert not told, "it is not lost"
    assert not left._leave()
    renewed(lease, GONE)
    for _ in range(2):
        lease._report_loss()
    assert told == [lease, first]


def test_an_outer_block_ends_the_blocks_inside_and_nothing_else(client: Redlock) -> None:
    lease = held(client)
    assert not lease._is_shared(ends_blocks=False)
    block = inner(lease, is_block=True)
    assert (lease._is_shared(ends_blocks=True), lease._is_shared(ends_blocks=False)) == (False, True)
    plain = inner(lease, is_block=False)
    assert lease._is_shared(ends_blocks=True)
    del plain
    assert not lease._is_shared(ends_blocks=True), "a dropped entry keeps nothing"
    assert not block._leave()


def test_the_last_entry_releases_where_the_block_has_ended(client: Redlock) -> None:
    lease = held(client)
    first, last = inner(lease, is_block=False), inner(lease, is_block=False)
    lease._is_left = True
    assert (first._leave(), last._leave()) == (False, True)
    with pytest.raises(NotHeld):
        last._leave()


def test_an_entry_has_the_state_of_the_lease_in_its_block(client: Redlock) -> None:
    lease = held(client)
    entry, later = inner(lease, is_block=False), inner(lease, is_block=False)
    assert (entry.is_held, entry.is_lost, entry._lost, entry.waited_ms) == (True, False, "", 0)
    assert (entry.fence, entry.owner, entry.rounds, entry.remaining()) == (lease.fence, lease.owner, 1, 4.9)
    entry._leave()
    assert (entry.is_held, later.is_held) == (False, True)
    with pytest.raises(NotHeld) as refused:
        _ = entry.fence
    assert str(refused.value) == "lock 'account:42' is not held here"
    renewed(lease, GONE)
    assert (later.is_lost, later._lost) == (True, "a quorum of nodes no longer has it")
    lease._grant = None
    assert not later.is_held


def test_a_lost_lease_is_entered_by_no_block(client: Redlock) -> None:
    with pytest.raises(LockLost):
        inner(held(client, 0), is_block=True)


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (replies(*[granted()] * 3, ABSENT, ABSENT), Outcome.RELEASED),
        (replies(granted(), granted(), *[ABSENT] * 3), Outcome.EXPIRED),
        (replies(granted(), granted(), ABSENT, denied(), DEAD), Outcome.UNKNOWN),
    ],
)
def test_a_release_forgets_the_token_with_every_outcome(
    client: Redlock, caplog: pytest.LogCaptureFixture, result: RoundResult, outcome: Outcome
) -> None:
    caplog.set_level(logging.INFO, "redlock")
    lease = held(client)
    assert drive(lease._releasing(), result)[0] is outcome
    assert (lease.is_held, lease.outcome()) == (False, outcome)
    with pytest.raises(NotHeld):
        next(lease._releasing())
    assert [line.partition(" ")[0] for line in caplog.messages] == [outcome.value]


def test_an_error_of_one_renewal_is_a_result_for_the_others(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, error = held(client), ValueError("as a log handler")

    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(lease._context.event_log, "extended", fail)
    assert drive(_isolated(lease, CONNECTIONS), ALL_GRANT)[0] is error
    assert lease._mutex.turn() is not None, "the traceback of the error keeps no turn"
