"""`redlock._transport.connections`: rounds without I/O, however the bytes come and go."""

from __future__ import annotations

import random

import pytest

from redlock import _log
from redlock._core.commands import Inspect, Round, Wait
from redlock._core.vote_tally import VoteTally
from redlock._core.votes import Vote
from redlock._transport import decoder
from redlock._transport.codec import SCRIPTS, pack
from redlock._transport.connection import MOST_PENDING
from redlock._transport.decoder import decode
from tests.unit.memory_nodes import (
    ATTEMPT,
    DENIAL,
    EXTENSION,
    GRANT,
    INSPECTION,
    LOADED,
    NOSCRIPT,
    RELEASE,
    RELEASED,
    START_MS,
    TIMEOUT_MS,
    Client,
    refusal,
)


def test_a_round_is_one_command_per_node_and_a_quorum_decides() -> None:
    client = Client()
    tally = client.begin()
    assert [one.handle.kinds() for one in client.state.all] == [["Acquire"]] * 5
    for place in (3, 0):
        client.receive(place, GRANT)
        assert not tally.is_over
    client.receive(1, GRANT)
    assert tally.is_over
    result = client.state.finish(tally, client.now)
    assert (result.votes_text, result.sent_ms) == ("GG.G.", START_MS)


@pytest.mark.parametrize("size", [1, 2, 5, 1_000])
def test_replies_may_come_in_pieces(size: int) -> None:
    client = Client()
    tallies = [client.begin(INSPECTION, Wait.ALL) for _ in range(3)]
    for place in range(5):
        data = GRANT + DENIAL + GRANT
        for at in range(0, len(data), size):
            client.receive(place, data[at : at + size])
    assert [client.letters(tally) for tally in tallies] == ["GGGGG", "DDDDD", "GGGGG"]


BEGUN = [b"*1\r\n", b"*2\r\n*1\r\n", b"$%d\r\n" % (len(GRANT) - 2), b"$%d\r\n" % len(GRANT), b"+", b"-x"]


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("before", [b"", GRANT, DENIAL, NOSCRIPT, LOADED], ids=["", "grant", "denial", "error", "text"])
def test_a_grant_inside_another_reply_is_no_vote(before: bytes, begun: bytes) -> None:
    """The reply begins in the same piece as the end of the reply before, or in a piece of its own."""
    for pieces in (
        [before + begun],
        [before, begun],
        [before[:5], before[5:] + begun],
        [before + begun[:1], begun[1:]],
    ):
        client = Client()
        first, tally = client.begin(EXTENSION, Wait.ALL), client.begin(EXTENSION, Wait.ALL)
        for piece in (*filter(None, pieces), GRANT, GRANT):
            client.receive(0, piece)
        assert "G" not in client.letters(tally if before else first)


def test_a_piece_that_looks_whole_can_begin_inside_a_reply() -> None:
    """The second piece looks like a text, and is the end of one text and the beginning of another."""
    client = Client()
    client.begin(EXTENSION, Wait.ALL)
    tally = client.begin(EXTENSION, Wait.ALL)
    for piece in (b"$2\r\n", b"$3\r\n$%d\r\n" % len(GRANT), GRANT, GRANT):
        client.receive(0, piece)
    assert "G" not in client.letters(tally)


def test_only_other_replies_and_cut_replies_need_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A denial, an error, a text and a refusal come between the grants."""
    client, parsed = Client(), list[object]()

    def note(reply: object) -> Vote:
        parsed.append(reply)
        return decode(reply)

    monkeypatch.setattr(decoder, "decode", note)
    for reply in (GRANT, DENIAL, LOADED, refusal(), b"-LOADING x\r\n", GRANT + DENIAL, RELEASED):
        client.begin(EXTENSION, Wait.ALL)
        client.begin(EXTENSION, Wait.ALL)
        client.receive(0, reply)
    assert len(parsed) == 3
    for piece in (GRANT + GRANT[:-1], GRANT[-1:] + GRANT + DENIAL):
        client.receive(0, piece)
    assert len(parsed) == 4


def test_what_the_system_does_not_accept_is_sent_later() -> None:
    """Every command arrives whole and in order, and each reply finds the tally of its command."""
    chance, client = random.Random(7), Client()
    one, arrived = client[0], bytearray()
    commands = [pack("ECHO", str(number) + "x" * 1_000) for number in range(2_000)]
    tallies = [VoteTally(Round(INSPECTION, Wait.ALL), 5, number) for number in range(2_000)]

    def write() -> None:
        words, one.outbox = one.outbox, b""
        sent = chance.randint(0, min(len(words), 5_000))
        arrived.extend(words[:sent])
        if sent != len(words) or one.is_blocked:
            one.keep(words, sent)

    for tally, words in zip(tallies, commands, strict=True):
        assert one.request(words, tally), "the connection is kept"
        write()
    while one.outbox:
        assert one.is_blocked
        write()
    assert not one.is_blocked
    assert arrived == b"".join(commands)
    data = b"".join(GRANT if number % 3 else DENIAL for number in range(2_000))
    while data:
        size = chance.randint(1, 900)
        client.receive(0, data[:size])
        data = data[size:]
    assert [client.letters(tally) for tally in tallies] == [
        "G...." if number % 3 else "D...." for number in range(2_000)
    ]


@pytest.mark.parametrize("sent", [b"", GRANT[:9]])
def test_a_reset_inside_a_reply_is_a_vote_less(sent: bytes) -> None:
    client = Client()
    tally = client.begin()
    if sent:
        client.receive(2, sent)
    handle = client[2].handle
    client.state.lost(client[2], "connection reset by peer")
    client.close()
    assert client.closed == [handle], "the driver closes it once"
    assert client.letters(tally) == "..S.."
    assert tally.votes[2].reason == "connection reset by peer"
    client.answer((0, 1, 3), GRANT)
    assert tally.is_over
    client.connect(2)
    tally = client.begin()
    client.receive(2, DENIAL)
    assert client.letters(tally) == "..D..", "nothing of the old connection is left"
    client.receive(2, b"")
    assert client[2].reason == "the node closed the connection"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not the Redis protocol"),
        (b"*5000\r\n", "list that is too long"),
        (b"$70000\r\n" + b"x" * 70_000, "more than 65 kB"),
        (GRANT + GRANT, "without being asked"),
    ],
)
def test_bytes_that_are_no_reply_end_the_connection(data: bytes, reason: str) -> None:
    client = Client()
    tally = client.begin()
    client.receive(4, data)
    assert client[4].handle is None
    assert len(client.closed) == 1
    assert reason in tally.votes[4].reason
    assert client.letters(tally) == "....S", "nothing of it counts"
    assert not client.state.is_ready(client.now)


def test_a_round_waits_once_for_the_reply_of_a_dripping_node() -> None:
    client = Client()
    tally = client.begin(wait=Wait.ALL)
    client.answer(range(4), GRANT)
    for at in range(10):
        client.now += 10
        client.receive(4, GRANT[at : at + 1])
    assert not tally.is_over
    client.state.expire(tally, client.now)
    assert tally.is_over
    assert tally.votes[4].timed_out
    assert client[4].suspect_since_ms == client.now
    client.state.finish(tally, client.now)

    assert not client.state.is_ready(client.now)
    assert client.dial(EXTENSION) == (set(), [])
    tally = client.begin(EXTENSION, Wait.ALL)
    assert client[4].handle.kinds() == ["Acquire", "Extend"], "it gets the command"
    client.answer(range(4), GRANT)
    assert tally.is_over, "nobody waits for the suspect"
    client.state.finish(tally, client.now)

    assert client.letters(client.begin(ATTEMPT)) == "....S"
    assert client[4].handle.kinds() == ["Acquire", "Extend"], "it gets no new attempt"
    client.receive(4, GRANT[10:])
    assert client.dial(EXTENSION) == (set(), [])
    assert client.state.is_ready(client.now), "a whole reply ends the suspicion"


def test_a_late_reply_counts_for_no_other_round() -> None:
    client = Client()
    first = client.begin()
    client.answer((0, 1, 2), GRANT)
    assert client.state.finish(first, client.now).won
    second = client.begin()
    client.receive(3, GRANT)
    client.receive(4, GRANT + DENIAL)
    assert client.letters(second) == "....D"
    assert client.letters(first) == "GGG..", "a closed tally does not change"


def test_a_late_refusal_is_a_missing_vote(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As of a full node that is farther away than a quorum. Each is counted once, and a line comes once a second."""
    counted: list[dict[str, str]] = []
    monkeypatch.setattr(_log, "_watchers", {"vote-missing": [lambda _, fields: counted.append(fields["missing"])]})
    caplog.set_level("INFO", "redlock")
    client, full = Client(), b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    for command in (ATTEMPT, EXTENSION, RELEASE):
        tally = client.begin(command)
        client.answer((0, 1, 2), GRANT)
        client.state.finish(tally, client.now)
        client.receive(3, GRANT)
        client.receive(4, full)
    silence(client, 0)
    client.receive(4, full)
    assert [list(missing) for missing in counted] == [["h:4"], ["h:4"]]
    assert len([line for line in caplog.messages if line.startswith("vote-missing missing='h:4: ")]) == 1


def test_a_late_vote_says_that_a_node_accepts_the_configuration() -> None:
    client = Client()
    client[3].agreed = client[4].agreed = False
    client.state.finish(client.begin(), client.now)
    client.receive(3, GRANT)
    client.receive(4, b"*3\r\n:3\r\n:7\r\n$7\r\nnodes=3\r\n")
    assert (client[3].agreed, client[4].agreed) == (True, False)
    assert client[4].refusal is not None


@pytest.mark.parametrize("late", [b"*3\r\n:3\r\n:7\r\n$0\r\n\r\n", b"*3\r\n:2\r\n:7\r\n:9\r\n", b"+OK\r\n"])
def test_a_late_reply_without_a_configuration_changes_nothing(late: bytes) -> None:
    client = Client()
    client[4].agreed = True
    client.state.finish(client.begin(), client.now)
    client.receive(4, late)
    assert (client[4].agreed, client[4].refusal) == (True, None)


def test_rounds_at_the_same_time_get_their_own_replies() -> None:
    client = Client()
    tallies = [client.begin(INSPECTION), client.begin(ATTEMPT), client.begin(RELEASE, Wait.COUNTED)]
    for tally in tallies:
        tally.on_news = print
    client.answer((4, 2, 0), GRANT + DENIAL)
    client.receive(4, RELEASED)
    assert [client.letters(tally) for tally in tallies] == ["G.G.G", "D.D.D", "....G"]
    assert list(map(tallies.index, client.state.with_news)) == [0, 1] * 3 + [2]
    assert [tally.is_over for tally in tallies] == [True, True, False]
    client.state.with_news.clear()
    client.state.lost(client[0], "gone")
    client.state.lost(client[1], "gone")
    assert list(map(tallies.index, client.state.with_news)) == [2, 0, 1, 2]


def silence(client: Client, answering: int) -> None:
    """A round that only so many nodes answer in time."""
    tally = client.begin(wait=Wait.ALL)
    client.answer(range(answering), GRANT)
    client.time_out(tally)
    client.state.finish(tally, client.now)


def test_a_suspect_node_loses_its_connection_after_a_second() -> None:
    client = Client()
    silence(client, 4)
    client.now += 1_000
    assert client.dial(ATTEMPT) == (set(), [])
    client.now += 1
    assert client.dial(ATTEMPT) == (set(), [])
    assert client[4].handle is None
    assert client.health[4].error == "no answer within 100 ms"
    client.now += 100
    places, awaited = client.dial(ATTEMPT)
    assert places == {4}
    assert not awaited, "no round waits for a node that is down"
    assert client.dial(ATTEMPT) == (set(), []), "a dial is under way"


def test_without_a_quorum_silent_connections_are_renewed_at_once() -> None:
    client = Client()
    silence(client, 2)
    assert client.dial(RELEASE) == (set(), []), "a release must not overtake its acquire"
    places, awaited = client.dial(ATTEMPT)
    assert places == {2, 3, 4}
    assert {one.place for one in awaited} == {2, 3, 4}
    client = Client()
    silence(client, 3)
    assert client.dial(ATTEMPT) == (set(), [])


def test_a_release_has_a_shorter_limit_and_suspects_nobody() -> None:
    client = Client()
    tally = client.begin(RELEASE, Wait.COUNTED)
    assert client.state.limit_ms(tally) == 80
    client.now += 80
    client.state.expire(tally, client.now)
    assert all(vote.timed_out for vote in tally.votes)
    client.state.finish(tally, client.now)
    assert client.state.is_ready(client.now)
    assert client.state.limit_ms(client.begin(ATTEMPT)) == TIMEOUT_MS


def test_a_set_reads_once_a_second_before_it_is_used() -> None:
    """A connection may have ended meanwhile, and replies to rounds that are over may be overdue."""
    client = Client()
    for _ in range(3):
        client.now += 1_000
        assert client.state.is_ready(client.now)
        assert not client.state.needs_read(client.now)
        client.state.finish(client.begin(), client.now)
        client.answer(range(5), GRANT)
        client.now += 1
        assert not client.state.is_ready(client.now)
        assert client.state.needs_read(client.now)
        client.dial(ATTEMPT)


def test_a_node_without_scripts_gets_them_and_the_command() -> None:
    client = Client()
    tally = client.begin()
    client[0].handle.commands.clear()
    client.receive(0, NOSCRIPT)
    client.write()
    assert client[0].handle.kinds() == ["script"] * len(SCRIPTS) + ["Acquire"]
    client.receive(0, LOADED * len(SCRIPTS) + GRANT)
    assert client.letters(tally) == "G...."
    client[1].handle.commands.clear()
    client.receive(1, NOSCRIPT)
    client.receive(1, LOADED * len(SCRIPTS) + NOSCRIPT)
    client.write()
    assert client[1].handle.kinds() == ["script"] * len(SCRIPTS) + ["Acquire"], "not in an endless loop"
    assert client.letters(tally) == "GS..."
    client[2].handle.commands.clear()
    client.receive(2, b"-BUSY Redis is busy running a script\r\n")
    client.write()
    assert (client[2].handle.kinds(), client.letters(tally)) == ([], "GSS.."), "not for another error"


def test_a_connection_that_ended_gets_no_command_again() -> None:
    client = Client()
    tallies = [client.begin(), client.begin()]
    client[0].pending.extend([None] * MOST_PENDING)
    client.receive(0, NOSCRIPT + NOSCRIPT)
    client.begin()
    assert client[0].handle is None
    assert "takes no more commands" in client[0].reason
    assert (client[0].outbox, list(client[0].pending)) == (b"", [])
    assert client.letters(tallies[0]) == "S...."


def test_a_reply_before_the_end_of_a_connection_counts() -> None:
    client = Client()
    lost, granted = client.begin(), client.begin()
    client[0].pending.extend([None] * MOST_PENDING)
    client.receive(0, NOSCRIPT + GRANT)
    client.begin()
    assert client[0].handle is None
    assert (client.letters(lost), client.letters(granted)) == ("S....", "G....")


def test_a_command_of_a_closed_round_is_not_repeated() -> None:
    client = Client()
    tally = client.begin()
    client.state.finish(tally, client.now)
    cancel = client.begin(RELEASE, Wait.SENT)
    client[0].handle.commands.clear()
    client.receive(0, NOSCRIPT + NOSCRIPT)
    client.write()
    loads = ["script"] * len(SCRIPTS)
    assert client[0].handle.kinds() == [*loads, "Release"], "the cancel is repeated, the attempt is not"
    client.receive(0, LOADED * len(SCRIPTS) + RELEASED)
    assert client.letters(cancel) == "G...."


def test_a_release_is_repeated_after_the_end_of_its_round() -> None:
    client = Client()
    release = client.begin(RELEASE)
    client.state.finish(release, client.now)
    client[0].handle.commands.clear()
    client.receive(0, NOSCRIPT)
    client.write()
    assert client[0].handle.kinds() == ["script"] * len(SCRIPTS) + ["Release"]
    client[0].handle.commands.clear()
    client.receive(0, LOADED * len(SCRIPTS) + NOSCRIPT)
    client.write()
    assert client[0].handle.kinds() == [], "not in an endless loop"


def test_each_of_two_open_commands_is_repeated_once() -> None:
    """A node could otherwise have both sent in turn, with all scripts, until their rounds end."""
    client = Client()
    tallies = client.begin(INSPECTION, Wait.ALL), client.begin(INSPECTION, Wait.ALL)
    client[0].handle.commands.clear()
    client.receive(0, NOSCRIPT * 2)
    client.receive(0, LOADED * len(SCRIPTS) + NOSCRIPT * 2)
    client.write()
    assert client[0].handle.kinds() == ["script"] * len(SCRIPTS) + ["Inspect"] * 2
    assert [client.letters(tally) for tally in tallies] == ["S....", "S...."]


def test_scripts_are_loaded_once_for_many_replies() -> None:
    """A node could make a client send 15 kB for each short reply, which holds up the process."""
    client = Client()
    for _ in range(1_000):
        client.state.finish(client.begin(), client.now)
    client[0].handle.commands.clear()
    client.receive(0, NOSCRIPT * 1_000)
    client.write()
    loads = ["script"] * len(SCRIPTS)
    assert client[0].handle.kinds() == loads
    client.begin()
    client.receive(0, LOADED * len(SCRIPTS) + NOSCRIPT)
    client.write()
    assert client[0].handle.kinds() == [*loads, "Acquire", *loads, "Acquire"], "the node has lost its scripts again"


def test_a_new_connection_waits_for_no_load_of_the_old_one() -> None:
    client = Client()
    client.begin()
    client.receive(0, NOSCRIPT)
    client.state.lost(client[0], "gone")
    client.connect(0)
    client.begin()
    client.receive(0, NOSCRIPT)
    client.write()
    assert client[0].handle.kinds().count("script") == len(SCRIPTS)


def test_a_node_that_never_answers_loses_the_connection_at_last() -> None:
    client = Client()
    for _ in range(4_096):
        tally = client.begin(INSPECTION)
        client.answer((0, 1, 2, 3), GRANT)
        client.state.finish(tally, client.now)
    assert client[4].handle is not None
    tally = client.begin(INSPECTION, Wait.ALL)
    assert client[4].handle is None
    assert client.letters(tally) == "....S"
    assert "overdue" in tally.votes[4].reason
    assert len(client.closed) == 1


@pytest.mark.parametrize("replies", [(GRANT,), (NOSCRIPT, LOADED * len(SCRIPTS) + GRANT)])
def test_a_node_that_answers_unread_commands_costs_little(replies: tuple[bytes, ...]) -> None:
    """The node reads nothing, so the bytes for the node would grow without end."""
    client = Client()
    node = client[4]
    largest = 0
    for number in range(20_000):
        # A long name, so that few rounds are enough.
        client.state.begin(Round(Inspect((f"{number % 10}" * 1_000,)), Wait.DECIDED), client.now)
        client.answer((0, 1, 2, 3), GRANT)
        client.write((0, 1, 2, 3))
        for reply in replies:
            if node.handle is not None:
                client.receive(4, reply)
        if node.handle is None:
            break
        node.keep(node.outbox, 0)
        largest = max(largest, len(node.outbox))
    assert node.handle is None, "the connection ends at last"
    assert "takes no more commands" in node.reason
    assert not node.outbox
    assert largest < 17_000_000


def test_a_held_back_command_goes_out_with_the_next_command() -> None:
    client = Client()
    held = [client.begin(RELEASE, Wait.COUNTED, hold=True) for _ in range(2)]
    assert [bytes(one.handle.written) for one in client.state.all] == [b""] * 5
    tally = client.state.begin(Round(ATTEMPT), client.now)
    assert all(one.outbox.count(b"EVALSHA") == 3 for one in client.state.all)
    client.write()
    assert client[3].handle.kinds() == ["Release", "Release", "Acquire"]
    client.receive(3, RELEASED + RELEASED + DENIAL)
    assert [client.letters(one) for one in (*held, tally)] == ["...G.", "...G.", "...D."]
    client.begin(RELEASE, Wait.COUNTED, hold=True)
    client.write([3])
    assert client[3].handle.kinds()[3:] == ["Release"]


def test_a_round_to_some_nodes_asks_only_those() -> None:
    client = Client()
    tally = client.state.begin(Round(RELEASE, Wait.ALL, (1, 3)), client.now)
    client.write()
    assert client.letters(tally) == "S.S.S"
    assert [bool(one.pending) for one in client.state.all] == [False, True, False, True, False]


def test_a_jump_of_a_node_clock_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    for ahead in (0, 0, 60_000):
        tally = client.begin()
        client.receive(0, b"*3\r\n:1\r\n:%d\r\n:7\r\n" % (client.now + ahead))
        client.state.finish(tally, client.now)
        client.now += 100
    assert [line for line in caplog.messages if "clock-jump" in line and "jumps=1" in line]
