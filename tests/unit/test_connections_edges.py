"""The state of connections that rounds leave behind: suspicion, rejections, duplicates and idle times, without I/O."""

from __future__ import annotations

from redlock._core.commands import Round, Wait
from redlock._core.votes import Kind, Vote
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
AHEAD_US = 7_200_000_000


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
            client.now += TIMEOUT_MS
            client.state.expire(tally, client.now)
        assert not client[0].is_fit
        client.receive(0, replies)
        assert [one.is_fit for one in client.state.all] == [True, *[False] * 4]


def test_a_set_in_use_is_ready_and_an_idle_set_is_not() -> None:
    client = Client()
    for _ in range(3):
        client.now += 900
        assert client.state.is_ready(client.now)
        assert not client.state.needs_read(client.now)
        finished(client, *[GRANT] * 5)
    client.now += 1_001
    assert not client.state.is_ready(client.now)
    assert client.state.needs_read(client.now), "a connection may have ended meanwhile"


def test_a_round_waits_for_dials_until_the_first_is_overdue() -> None:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place in range(3):
        client.connect(place)
    client[4].dialled_ms = START_MS + 60
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


def test_a_waiting_round_hears_of_a_connection_that_ended() -> None:
    client = Client()
    tally = client.begin()
    tally.waiter = object()
    client.state.lost(client[2], "gone")
    assert client.state.finished == [tally]
    assert client.letters(tally) == "..S.."


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


def test_a_token_is_checked_by_the_clocks_of_the_other_nodes() -> None:
    client = Client()
    day_ms = 86_400_000
    for place, ahead_ms in enumerate((day_ms, 0)):
        client.health[place].clock.observe(START_MS + ahead_ms, START_MS, START_MS)
    vote = Vote(Kind.GRANTED, START_MS * 1_000 + AHEAD_US)
    checked = vote_checks.if_plausible(client.state.all, client[0], vote, START_MS, lambda: 0)
    assert checked.kind is Kind.SILENT, "its own clock does not count"
    right = Vote(Kind.GRANTED, START_MS * 1_000 + AHEAD_US // 2 - 2_000)
    assert vote_checks.if_plausible(client.state.all, client[0], right, START_MS, lambda: 0) is right


def test_a_counted_token_leaves_room_for_a_larger_token() -> None:
    """The second round asks for a larger token, which each node compares with its own clock."""
    client = Client()
    seconds = (0, 0, 20, 40, 60)
    for place, ahead in enumerate(seconds):
        client.health[place].clock.observe(START_MS + 1_000 * ahead, START_MS, START_MS)
    hour_us = AHEAD_US // 2
    for ahead in range(61):
        vote = Vote(Kind.GRANTED, (START_MS + 1_000 * ahead) * 1_000 + hour_us)
        counts = vote_checks.if_plausible(client.state.all, client[0], vote, START_MS, lambda: 0) is vote
        accepting = sum(vote.fence < (START_MS + 1_000 * other) * 1_000 + hour_us for other in seconds[1:])
        assert counts == (accepting >= 3), ahead


def test_a_false_clock_silences_no_node_while_another_is_down() -> None:
    client = Client()
    for place, ahead_ms in enumerate((0, 10, 20, -START_MS)):
        client.health[place].clock.observe(START_MS + ahead_ms, START_MS, START_MS)
    for place in range(3):
        vote = Vote(Kind.GRANTED, (START_MS - 3_000) * 1_000 + AHEAD_US // 2)
        assert vote_checks.if_plausible(client.state.all, client[place], vote, START_MS, lambda: 0) is vote
    vote = Vote(Kind.GRANTED, START_MS * 1_000 + AHEAD_US // 2)
    checked = vote_checks.if_plausible(client.state.all, client[3], vote, START_MS, lambda: 0)
    assert checked.kind is Kind.SILENT, "the slowest of three would refuse a larger token"


def test_a_token_is_checked_although_the_own_clock_is_wrong() -> None:
    client = Client()
    for health in client.health:
        health.clock.observe(WALL_US // 1_000 - 60_000, START_MS, START_MS)
    tally = client.begin()
    client.receive(0, b"*3\r\n:1\r\n:%d\r\n:%d\r\n" % (WALL_US // 1_000, WALL_US + AHEAD_US // 2 - 1_000_000))
    assert client.letters(tally) == "S....", "the nodes are a minute behind, and refuse a larger token"


def with_two_addresses_of_one_server() -> Client:
    client = Client(connected=False)
    client.dial(ATTEMPT)
    for place, server in enumerate("aabcd"):
        client.connect(place, run_id=server * 40)
    return client


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
