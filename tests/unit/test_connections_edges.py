"""The state of connections that rounds leave behind: suspicion, rejections, duplicates and idle times, without I/O."""

from __future__ import annotations

import pytest

from redlock._core.commands import Round, Wait
from redlock._core.vote_tally import VoteTally
from redlock._transport import vote_checks
from redlock._transport.connection import MOST_PENDING
from tests.unit.memory_nodes import (
    ATTEMPT,
    DENIAL,
    EXTENSION,
    GRANT,
    LOADED,
    NOSCRIPT,
    RELEASE,
    RELEASED,
    START_MS,
    TIMEOUT_MS,
    WALL_US,
    Client,
    refusal,
)

ABSTENTION = b"*3\r\n:2\r\n:1764000000000\r\n:900\r\n"


def finished(client: Client, *replies: bytes) -> None:
    """A round with these replies, by place."""
    tally = client.begin()
    for place, data in enumerate(replies):
        client.receive(place, data)
    client.state.finish(tally, client.now)


def test_a_node_with_too_many_overdue_replies_is_lost() -> None:
    client = Client()
    client[0].pending.extend([None] * MOST_PENDING)
    tally = client.begin()
    assert client[0].handle is None
    assert tally.votes[0].reason == "takes no more commands: earlier commands are overdue"
    assert client.letters(tally) == "S...."
    client = Client()
    client[0].pending.extend([None] * MOST_PENDING)
    tally = client.state.begin(Round(RELEASE, Wait.ALL, (0, 1)), client.now)
    assert client.letters(tally) == "S.SSS", "also in a round to some nodes"


def test_any_number_of_replies_ends_a_suspicion() -> None:
    for replies in (GRANT, GRANT + DENIAL):
        client = Client()
        for _ in range(replies.count(b"*")):
            tally = client.begin(EXTENSION)
            client.time_out(tally)
        assert not client[0].is_fit
        client.receive(0, replies)
        assert [one.is_fit for one in client.state.all] == [True, *[False] * 4]


def test_a_round_waits_for_dials_until_the_first_is_overdue() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place in range(3):
        client.connect(place)
    client[4].dialled_ms = START_MS + 60
    assert client.dials.left_ms(client.now) == TIMEOUT_MS
    client.now += 70
    assert client.dials.left_ms(client.now) == 30


def test_a_new_connection_knows_what_its_node_has_agreed_on() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place, fingerprint in enumerate((client.codec.fingerprint, "", "max_ttl=9s")):
        client.connect(place, fingerprint=fingerprint)
    assert [client[place].agreed for place in range(3)] == [True, False, False]
    assert [client[place].refusal is None for place in range(3)] == [True, True, False]


def test_a_new_connection_forgets_suspicion_and_rejection() -> None:
    client = Client()
    finished(client, refusal())
    client[1].suspect_since_ms = client.now
    for place in (0, 1):
        client.state.lost(client[place], "gone")
        client.connect(place, fingerprint="")
    assert all(one.is_fit for one in client.state.all)
    assert not client[0].agreed


def test_a_node_that_abstains_has_not_agreed() -> None:
    client = Client()
    for place in range(5):
        client[place].agreed = False
    finished(client, ABSTENTION, GRANT, DENIAL)
    assert [one.agreed for one in client.state.all] == [False, True, True, False, False]


def test_a_node_that_was_emptied_has_agreed_no_longer() -> None:
    client = Client()
    assert client[0].agreed
    finished(client, ABSTENTION, GRANT)
    assert [client[0].agreed, client[1].agreed] == [False, True]


def test_releases_that_were_held_back_go_out_before_scripts() -> None:
    client = Client()
    tally = client.begin()
    held = client.begin(RELEASE, Wait.COUNTED, hold=True)
    client.receive(0, NOSCRIPT)
    client.write()
    kinds = client[0].handle.kinds()
    assert kinds == ["Acquire", "Release", *["script"] * 6, "Acquire"]
    client.receive(0, RELEASED + LOADED * 6 + GRANT)
    assert (client.letters(held), client.letters(tally)) == ("G....", "G....")


def test_as_many_rejections_as_agreements_bar_a_client() -> None:
    client = Client(nodes=4)
    finished(client, refusal(), refusal(), GRANT, GRANT)
    assert vote_checks.is_barred(client.state.all)
    client = Client(nodes=5)
    finished(client, refusal(), refusal(), GRANT, GRANT, GRANT)
    assert not vote_checks.is_barred(client.state.all)


def granted(fence: int, time_ms: int = WALL_US // 1_000) -> bytes:
    """The reply of a node that grants with this token."""
    return b"*3\r\n:1\r\n:%d\r\n:%d\r\n" % (time_ms, fence)


@pytest.mark.parametrize("ahead_us", [1, 60_000_000, 1_799_000_000, 3_600_000_000, 2**51])
@pytest.mark.parametrize("time_ms", [WALL_US // 1_000, 2**62 // 1_000])
def test_no_single_node_chooses_the_token(ahead_us: int, time_ms: int) -> None:
    """Also with another node down: the other nodes could refuse a larger token, each by its own clock."""
    client = Client()
    for _ in range(3):
        tally = client.begin()
        client.receive(0, granted(WALL_US + ahead_us, time_ms))
        client.answer((1, 2), granted(WALL_US))
        assert not tally.is_over
        client.state.lost(client[4], "gone")
        client.receive(3, granted(WALL_US))
        assert tally.is_over
        assert client.letters(tally) in {".GGGS", "SGGGS"}
        assert client.state.finish(tally, client.now).largest_fence == WALL_US
        client.connect(4)


def test_tokens_above_the_proposal_count_if_a_quorum_agrees() -> None:
    client = Client()
    tally = client.begin()
    for place, time_ms in ((0, WALL_US // 1_000), (1, 2 * WALL_US // 1_000), (2, WALL_US // 1_000)):
        assert not tally.is_over
        client.receive(place, granted(WALL_US + 5, time_ms))
    assert (client.letters(tally), tally.is_over) == ("GGG..", True)


def test_the_smallest_tokens_above_the_proposal_count() -> None:
    client = Client()
    tally = client.begin()
    for place, ahead in enumerate((10**9, 7, 5, 6)):
        client.receive(place, granted(WALL_US + ahead))
        assert client.letters(tally) == "....."
    client.receive(4, DENIAL)
    assert (client.letters(tally), tally.is_over) == (".GGGD", True)
    assert client.state.finish(tally, client.now).largest_fence == WALL_US + 7


def with_grants(*ahead_us: int) -> tuple[Client, VoteTally]:
    """A round with a grant of each of the first nodes, whose token is so far ahead of the proposal."""
    client = Client()
    tally = client.begin()
    for place, ahead in enumerate(ahead_us):
        client.receive(place, granted(WALL_US + ahead))
    return client, tally


def test_a_token_that_was_kept_back_counts_at_the_deadline() -> None:
    client, tally = with_grants(0, 5, 6)
    client.state.lost(client[1], "gone")
    assert not tally.is_over, "its vote stays, although its connection has ended"
    client.time_out(tally)
    assert client.letters(tally) == "GGGSS"
    assert [one.suspect_since_ms is None for one in client.state.all] == [True, True, True, False, False]


def test_a_token_kept_back_is_an_answer_at_the_deadline() -> None:
    client, tally = with_grants(0, 0, 9, 5)
    client.time_out(tally)
    assert client.letters(tally) == "GG.GS", "the smaller token makes the quorum"
    assert [one.suspect_since_ms is None for one in client.state.all] == [True, True, True, True, False]


def test_tokens_kept_back_count_when_the_last_open_node_is_lost() -> None:
    client, tally = with_grants(0, 0, 9, 5)
    assert not tally.is_over
    client.state.lost(client[4], "gone")
    assert (client.letters(tally), tally.is_over) == ("GG.GS", True)


def test_the_token_of_a_denial_does_not_spread() -> None:
    client = Client()
    tally = client.begin()
    client.receive(0, b"*5\r\n:0\r\n:1764000000000\r\n:%d\r\n$3\r\nx:y\r\n:900\r\n" % (WALL_US + 3_599_000_000))
    client.answer((1, 2, 3), granted(WALL_US))
    assert client.letters(tally) == "DGGG."
    assert client.state.finish(tally, client.now).backed_fence == WALL_US, "and the client does not remember it"


def test_a_token_beyond_the_own_clock_of_a_node_has_no_vote() -> None:
    client = Client(nodes=1)
    tally = client.begin()
    client.receive(0, granted(WALL_US + 3_600_000_001))
    assert (client.letters(tally), tally.is_over) == ("S", True)
    assert "more than an hour ahead of its own clock" in tally.votes[0].reason
    tally = client.begin()
    client.receive(0, granted(WALL_US + 3_600_000_000))
    assert client.letters(tally) == "G"


def with_two_addresses_of_one_server() -> Client:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place, server in enumerate("aabcd"):
        client.connect(place, run_id=server * 40)
    return client


def test_a_token_kept_back_is_no_second_vote_of_a_server() -> None:
    client = with_two_addresses_of_one_server()
    tally = client.begin()
    for place, fence in enumerate((WALL_US + 5, WALL_US, WALL_US)):
        client.receive(place, granted(fence))
    client.answer((3, 4), DENIAL)
    assert (client.letters(tally), tally.is_over) == ("SGGDD", True)


def test_the_second_address_of_a_server_may_answer_first() -> None:
    client = with_two_addresses_of_one_server()
    tally = client.begin(EXTENSION, Wait.ALL)
    client.receive(1, GRANT)
    assert client.letters(tally) == ".G..."
    client.receive(0, DENIAL)
    assert client.letters(tally) == "DG...", "the server's memory differs from its reply: both count"
    tally = client.begin(EXTENSION, Wait.ALL)
    client.receive(1, GRANT)
    client.receive(0, GRANT)
    assert client.letters(tally) == "SG..."


def test_an_abstention_counts_before_the_other_address_answers() -> None:
    client = with_two_addresses_of_one_server()
    tally = client.begin(EXTENSION, Wait.ALL)
    client.receive(0, ABSTENTION)
    assert "abstains" in tally.votes[0].reason
    assert not tally.votes[0].same_as
