"""`redlock._transport.connected_nodes`: dials, rejections and duplicate addresses, without I/O."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redlock._core.commands import Round, Wait
from redlock._core.vote_tally import VoteTally
from tests.unit.memory_nodes import (
    ATTEMPT,
    EXTENSION,
    GRANT,
    NOSCRIPT,
    RELEASE,
    RELEASED,
    START_MS,
    TIMEOUT_MS,
    Client,
    refusal,
)


def test_the_first_round_dials_all_nodes_and_waits_for_them() -> None:
    client = Client(connected=False)
    places, awaited = client.dial(ATTEMPT)
    assert places == set(range(5))
    assert len(awaited) == 5
    assert client.dials.left_ms(client.now) == TIMEOUT_MS
    for place in range(4):
        client.connect(place)
    client.now += 60
    assert client.dials.left_ms(client.now) == 40
    client.state.dial_failed(client[4], "connection refused")
    assert client.dials.left_ms(client.now) == 0
    tally = client.begin()
    assert client.letters(tally) == "....S"
    assert tally.votes[4].reason == "connection refused"


@pytest.mark.parametrize("frozen", [(3, 4), (2, 3, 4)])
def test_a_minority_that_owes_replies_is_suspect(frozen: tuple[int, ...]) -> None:
    """A quorum that owes replies says that this process is late."""
    client = Client()
    is_minority = len(frozen) < 3
    for command in (ATTEMPT, RELEASE):
        tally = client.begin(command)
        client.answer({0, 1, 2, 3, 4}.difference(frozen), GRANT)
        client.state.finish(tally, client.now)
    for _ in range(2):
        assert not any(one.reason for one in client.state.all), "the commands may have been sent just now"
        client.now += 1_000
        client.dial(ATTEMPT)
        assert client.state.is_ready(client.now), "looking costs time, so it is done once a second"
        client.now += 1
        assert not client.state.is_ready(client.now)
        client.dial(ATTEMPT)
    assert client.state.is_ready(client.now) is not is_minority
    suspects = [place for place in range(5) if client[place].reason == "no answer within 100 ms"]
    assert suspects == (list(frozen) if is_minority else [])


@pytest.mark.parametrize(
    ("change", "is_suspect"),
    [
        (lambda client, _: client.receive(4, RELEASED), False),
        (lambda _, tally: setattr(tally, "closed", False), False),
        (lambda client, tally: setattr(tally, "sent_ms", client.now - TIMEOUT_MS + 1), False),
        (lambda client, _: setattr(client[4], "outbox", b"not sent yet"), False),
        (lambda client, _: client[4].keep(b"not accepted", 3), True),
        (lambda client, _: client[4].pending.appendleft(None), True),
        (lambda client, _: (client.receive(4, NOSCRIPT), client.write()), False),
    ],
    ids=["answered", "open", "late", "unsent", "full socket", "scripts", "repeated"],
)
def test_only_a_node_that_owes_a_reply_is_suspect(
    change: Callable[[Client, VoteTally], object], *, is_suspect: bool
) -> None:
    client = Client()
    tally = client.begin(RELEASE)
    client.answer(range(4), RELEASED)
    client.state.finish(tally, client.now)
    client.now += 1_001
    client.dial(ATTEMPT)
    client.now += 1_001
    change(client, tally)
    client.dial(ATTEMPT)
    assert client[4].is_fit is not is_suspect


def test_an_overdue_dial_is_waited_for_once() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place in range(4):
        client.connect(place)
    client.now += client.dials.left_ms(client.now)
    assert client.dials.left_ms(client.now) == 0
    assert client.health[4].error == "no answer within 100 ms"
    assert client.dial(ATTEMPT) == (set(), []), "the dial goes on, and no round waits for it"
    client.connect(4)
    assert not client.health[4].error
    assert client.state.is_ready(client.now)


def test_without_a_quorum_a_round_waits_for_dials() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT, START_MS + 10 * TIMEOUT_MS)
    client.connect(0)
    client.connect(1)
    assert client.dials.left_ms(client.now) == 9 * TIMEOUT_MS, "the rest is for the round"
    client.now += 3 * TIMEOUT_MS
    client.connect(2)
    assert client.dials.left_ms(client.now) == 0


def test_the_round_deadline_ends_the_wait_for_a_dial() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT, START_MS + 30)
    assert client.dials.left_ms(client.now) == 30


def test_a_wait_that_ends_late_goes_on_once() -> None:
    """The process was stopped: the nodes' replies to the dials are there, and no thread has read them yet."""
    client = Client(connected=False)
    client.dial(ATTEMPT)
    assert client.dials.left_ms(client.now) == TIMEOUT_MS
    client.now += TIMEOUT_MS + 30
    assert client.dials.left_ms(client.now) == 30, "as long as the process woke late"
    client.now += 20
    for place in range(4):
        client.connect(place)
    assert client.dials.left_ms(client.now) == 10
    client.now += 10 + 500
    assert client.dials.left_ms(client.now) == 0, "no second time"
    assert client.dials.until_ms == START_MS + 2 * TIMEOUT_MS + 30 + 30, "the round has its node timeout"
    assert client.letters(client.begin()) == "....S"


def test_a_stall_before_the_wait_lets_the_wait_begin() -> None:
    """The process was stopped right after its dials, and the wait can still end late once."""
    client = Client(connected=False)
    client.dial(ATTEMPT)
    client.now += 3 * TIMEOUT_MS
    assert client.dials.left_ms(client.now) == TIMEOUT_MS
    assert not any(node.error for node in client.health)
    for place in range(4):
        client.connect(place)
    client.now += TIMEOUT_MS + 30
    assert client.dials.left_ms(client.now) == 30
    client.now += 30
    assert client.dials.left_ms(client.now) == 0
    assert client.health[4].error


def test_rounding_is_no_stall_and_adds_nothing_to_a_wait() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    client.now += client.dials.left_ms(client.now) + 1
    assert client.dials.left_ms(client.now) == 0
    assert client.dials.until_ms == START_MS + 2 * TIMEOUT_MS


def test_a_long_stall_adds_one_node_timeout_to_a_wait() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    client.dials.left_ms(client.now)
    client.now += 50 * TIMEOUT_MS
    assert client.dials.left_ms(client.now) == TIMEOUT_MS
    for place in range(5):
        client.connect(place)
    assert client.dials.left_ms(client.now) == 0
    assert client.dials.until_ms == client.now + 2 * TIMEOUT_MS


def test_a_connection_that_never_lasts_holds_up_no_round() -> None:
    """A node could accept each connection late and close it at once, and every round would wait for the next dial."""
    client = Client()
    for _ in range(3):
        client.now += 500
        client.state.lost(client[0], "gone")
        assert client.dial(ATTEMPT) == ({0}, [])
        client.connect(0)
    client.now += 1_000
    client.state.lost(client[0], "gone")
    assert client.dial(ATTEMPT) == ({0}, [client[0]]), "this connection has lasted"
    client.connect(0)
    for place in (0, 1, 2):
        client.state.lost(client[place], "gone")
    places, awaited = client.dial(ATTEMPT)
    assert (places, len(awaited)) == ({0, 1, 2}, 3), "without a quorum every dial counts"


def test_a_node_that_ends_each_connection_sets_no_rate_of_dials() -> None:
    client = Client()
    dials = 0
    for _ in range(100):
        client.now += 10
        client.state.lost(client[0], "gone")
        dials += len(client.dial(ATTEMPT)[0])
        client.connect(0)
    assert dials == 10
    client.now += 10
    for place in (0, 1, 2):
        client.state.lost(client[place], "gone")
    assert client.dial(ATTEMPT)[0] == {0, 1, 2}, "without a quorum every dial counts"


def test_a_release_waits_for_no_dial_if_a_quorum_is_connected() -> None:
    client = Client()
    client.now += 500
    for place in (0, 1):
        client.state.lost(client[place], "gone")
    assert client.dial(RELEASE) == ({0, 1}, [])
    client = Client()
    for place in (0, 1, 2):
        client.state.lost(client[place], "gone")
    places, awaited = client.dial(RELEASE)
    assert (places, len(awaited)) == ({0, 1, 2}, 3)


def test_a_lost_connection_drops_its_bytes_and_what_it_held_back() -> None:
    client = Client()
    client.begin(RELEASE, Wait.COUNTED, hold=True)
    client[0].keep(client[0].outbox, 2)
    client.state.lost(client[0], "gone")
    client.connect(0)
    assert (client[0].outbox, client[0].is_blocked, len(client[0].pending)) == (b"", False, 0)


def test_a_rejection_by_a_minority_costs_its_votes_only() -> None:
    client = Client()
    tally = client.begin()
    client.receive(0, refusal())
    client.answer((1, 2, 3), GRANT)
    result = client.state.finish(tally, client.now)
    assert result.won
    assert result.disagreement is None, "a minority's rejection is hidden"
    client.receive(4, GRANT)
    tally = client.begin(EXTENSION)
    assert client[0].handle.kinds() == ["Acquire", "Extend"], "it may accept the client meanwhile"
    assert client.letters(tally) == "....."
    client.receive(0, GRANT)
    assert client.letters(tally) == "G....", "it has accepted the client"
    client.answer((1, 2), GRANT)
    client.state.finish(tally, client.now)
    client.dial(ATTEMPT)
    assert client.state.is_ready(client.now)


def test_a_rejecting_node_that_is_silent_is_not_waited_for() -> None:
    client = Client()
    client.begin()
    client.receive(0, refusal())
    tally = client.begin(EXTENSION, Wait.ALL)
    client.answer((1, 2, 3, 4), GRANT + GRANT)
    assert not tally.is_over
    client.time_out(tally)
    tally = client.begin(EXTENSION, Wait.ALL)
    assert client.letters(tally) == "S...."


def test_a_client_that_a_quorum_rejects_asks_for_no_vote() -> None:
    client = Client()
    tally = client.begin()
    client.answer((0, 1, 2), refusal())
    result = client.state.finish(tally, client.now)
    assert result.disagreement == 0
    places, _ = client.dial(ATTEMPT)
    assert places == {0, 1, 2}, "new connections read the record again"
    for place in places:
        client.connect(place, fingerprint="max_ttl=9s")
    written = [len(one.handle.written) for one in client.state.all]
    tally = client.begin()
    assert client.letters(tally) == "SSSSS"
    assert client.state.finish(tally, client.now).disagreement == 0
    assert [len(one.handle.written) for one in client.state.all] == written, "not a byte"
    client.begin(RELEASE, Wait.COUNTED)
    assert client[3].handle.kinds()[-1] == "Release", "a release needs no vote"


def test_a_rejection_that_is_late_for_its_round_counts() -> None:
    client = Client()
    tally = client.begin()
    client.answer((0, 1, 2), GRANT)
    client.state.finish(tally, client.now)
    client.receive(4, refusal())
    assert client[4].refusal is not None
    assert not client.state.is_ready(client.now)


def test_addresses_of_the_same_server_cast_one_vote(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place, server in enumerate("aabcc"):
        client.connect(place, run_id=server * 40)
    assert sum("node-duplicate" in line for line in caplog.messages) == 2
    tally = client.begin()
    client.answer(range(5), GRANT)
    assert client.letters(tally) == "GSGGS"
    assert tally.votes[1].same_as == "h:0"
    assert [one.handle.kinds() for one in client.state.all] == [["Acquire"]] * 5, "all of them get the command"


def test_requests_that_were_not_sent_are_dropped() -> None:
    client = Client()
    client.begin(RELEASE, Wait.COUNTED, hold=True)
    released = client[0].outbox
    client[0].outbox += b"EVALSHA"
    client[1].keep(b"EVALSHA", 3)
    client[2].is_sending = True
    client.state.drop_requests()
    assert client[0].outbox == released, "only what was held back"
    for one in client.state.all[1:3]:
        assert (one.handle, one.outbox) == (None, b""), "after half a command the node would read no other"
    assert not client[2].is_sending, "the next connection begins anew"


def test_releases_stay_when_the_request_behind_them_is_dropped() -> None:
    client = Client()
    client.begin(RELEASE, Wait.COUNTED, hold=True)
    held_back = client[0].outbox
    assert held_back
    client.state.begin(Round(ATTEMPT), client.now)
    assert len(client[0].outbox) > len(held_back)
    client.state.drop_requests()
    assert [one.outbox for one in client.state.all] == [held_back] * 5
    client.write()
    client.state.begin(Round(ATTEMPT), client.now)
    client.state.drop_requests()
    assert [one.outbox for one in client.state.all] == [b""] * 5, "the releases were sent before"
    client[0].keep(b"EVALSHA", 3)
    client[0].hold_back()
    client[0].keep(client[0].outbox, 4)
    client.state.begin(Round(ATTEMPT, to=(0,)), client.now)
    client.state.drop_requests()
    assert client[0].outbox == b"", "a socket that refused bytes has taken them since"


def test_a_set_is_awaited_until_every_reply_has_come() -> None:
    client = Client()
    assert not client.state.is_awaited
    client.begin(RELEASE, Wait.SENT)
    for place in range(5):
        assert client.state.is_awaited
        client.receive(place, RELEASED)
    assert not client.state.is_awaited
