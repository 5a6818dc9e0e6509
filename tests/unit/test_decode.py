"""`redlock._transport.decoder`: replies as votes. Each field of a vote is in `test_wire_format`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redlock._core.votes import Kind, Vote
from redlock._transport.decoder import VoteReader, decode, explain
from redlock._transport.reply_reader import ReplyError, ReplyReader, UnreadableReply

CODES = (
    "NOAUTH WRONGPASS NOPERM WRONGTYPE LOADING BUSY MISCONF NOREPLICAS OOM READONLY MASTERDOWN MOVED CROSSSLOT "
    "CLUSTERDOWN FENCEAHEAD FENCESTORED DENIED"
)


@pytest.mark.parametrize("code", CODES.split())
def test_a_known_error_is_told_in_our_own_words(code: str) -> None:
    assert "of the server" not in explain(f"{code} words of the server")
    assert explain(f"OTHER {code} of the server") == f"OTHER {code} of the server"


@pytest.mark.parametrize(
    "reply",
    [
        *(None, 1, b"OK", "1", [], [1], [1, 2], [None, 1, 2], [0, 1, 2], [7, 1, 2], [0, 1, 2, b"t"], {}, True),
        *([True, True, True], [1, True, 7], [1, 5, False], (1, 5, 7)),
    ],
    ids=str,
)
def test_what_is_no_vote_is_never_a_yes(reply: object) -> None:
    """Of redsync: a comparison with the wrong type made every failure a success."""
    vote = decode(reply)
    assert vote.kind is Kind.SILENT
    assert vote.reason


GRANT = "*3\r\n:1\r\n:5\r\n:7\r\n"
DENIAL = "*5\r\n:0\r\n:5\r\n:7\r\n$3\r\nx:y\r\n:9\r\n"
_NUMBERS = (":1", ":0", ":7", ":-1", ":+7", ":07", f":{10**17}", f":{2**63 - 1}", f":{2**63}")
_WORDS = (*_NUMBERS, "*3", "*1", "$0", "$1", "$6", "1", "a*9999", "#t", "")
_BEGUN = ("", "*3\r\n:1\r\n", "*5\r\n:0\r\n:5\r\n:7\r\n")
_BEGIN = st.sampled_from([*_BEGUN, GRANT, "*3\r\n:1\r\n:0\r\n:0\r\n", GRANT + DENIAL])
_PIECES = st.builds(
    lambda begin, words, end: begin + "\r\n".join(words) + end,
    _BEGIN,
    st.lists(st.sampled_from(_WORDS), max_size=4),
    st.sampled_from(["\r\n", "\r\n", "\n", "\r", "", "\r\n" + GRANT, "\r\n" + DENIAL]),
)


def read(reader: ReplyReader | VoteReader, sent: bytes, size: int) -> tuple[list[object], bool]:
    """The replies to these bytes, in pieces of this size, and whether all bytes were readable."""
    found: list[object] = []
    try:
        for at in range(0, len(sent), size):
            found += reader.read(sent[at : at + size])
    except UnreadableReply:
        return found, False
    return found, True


@given(_PIECES, st.integers(1, 100))
def test_the_shortcut_for_votes_never_differs_from_the_parser(sent: str, size: int) -> None:
    replies, is_readable = read(ReplyReader(), sent.encode(), size)
    assert read(VoteReader(), sent.encode(), size) == ([decode(reply) for reply in replies], is_readable)


@pytest.fixture
def without_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ReplyReader, "read_first")


@pytest.mark.usefixtures("without_parser")
@pytest.mark.parametrize(("time_ms", "fence"), [(0, 0), (0, 7), (1_764_000_000_000, 0), (5, 2**52), (10**17, 10**17)])
def test_grants_are_found_without_a_parser(time_ms: int, fence: int) -> None:
    reply, vote = b"*3\r\n:1\r\n:%d\r\n:%d\r\n" % (time_ms, fence), decode([1, time_ms, fence])
    assert vote == Vote(Kind.GRANTED, fence, time_ms=time_ms)
    assert VoteReader().read(reply) == [vote]
    assert VoteReader().read(reply + GRANT.encode() + reply) == [vote, Vote(Kind.GRANTED, 7, time_ms=5), vote]


@pytest.mark.usefixtures("without_parser")
@pytest.mark.parametrize("remaining", [900, 0, -1])
@pytest.mark.parametrize("holder", [b"", b"x:y", b"a\xff", "ü".encode()])
def test_denials_are_found_without_a_parser(holder: bytes, remaining: int) -> None:
    reply = b"*5\r\n:0\r\n:5\r\n:7\r\n$%d\r\n%b\r\n:%d\r\n" % (len(holder), holder, remaining)
    vote = decode([0, 5, 7, holder, remaining])
    assert (vote.kind, vote.time_ms, vote.fence) == (Kind.DENIED, 5, 7)
    assert VoteReader().read(reply) == [vote]
    assert VoteReader().read(reply + GRANT.encode() + reply) == [vote, Vote(Kind.GRANTED, 7, time_ms=5), vote]


@pytest.mark.usefixtures("without_parser")
@pytest.mark.parametrize(
    "end",
    [
        b"$6\r\nx:y\r\n:9\r\n",
        b"$2\r\nx:y\r\n:9\r\n",
        b"$5\r\na\r\nbc\r\n:9\r\n",
    ],
    ids=["too short", "too long", "a line break"],
)
def test_other_denials_are_left_to_the_parser(end: bytes) -> None:
    with pytest.raises(AttributeError, match="read_first"):
        VoteReader().read(b"*5\r\n:0\r\n:5\r\n:7\r\n" + end)


@pytest.mark.parametrize(
    "reply",
    [
        [1, 5, b"7"],
        [1, 5, None],
        [1, 5, [7]],
        [1, b"5", 7],
        [1, None, 7],
        [1, 5, 7, 8],
        [1, 5, -1],
        [0, 5, b"7", b"t", 9],
        [0, 5, 7, None, 9],
        [3, 5, None],
        b"\x01\x01\x01",
    ],
    ids=str,
)
def test_what_only_begins_like_a_vote_is_none(reply: object) -> None:
    """A fence that is no number would break the search for the largest fence."""
    vote = decode(reply)
    assert (vote.kind, vote.fingerprint) == (Kind.SILENT, "")
    assert "no vote" in vote.reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("NOAUTH Authentication required.", "password"),
        ("WRONGTYPE Operation against a key", "another type"),
        ("OOM command not allowed", "memory"),
        ("READONLY You can't write", "replica"),
        ("MOVED 1 127.0.0.1:1", "cluster"),
        ("ERR something else", "something else"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("BUSY Redis is busy running a script", "busy"),
        ("MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
        ("NOPERM User x has no permissions to run the 'evalsha' command", "may not run"),
        ("DENIED Redis is running in protected mode", "protected mode"),
        ("-MASTERDOWN Link with MASTER is down", "replica"),
        (
            "FENCEAHEAD a proposed token is",
            "more than an hour ahead of its clock; set the clock of this machine, or stop the node",
        ),
        ("FENCESTORED a token", "has a fencing token for this resource that is more than an hour ahead"),
        ("ERR Error running script (call to f_01): @user_script:13: FENCESTORED a token", "has a fencing token"),
        (
            "ERR Error running script (call to f_01): @user_script:13: @user_script: 13: -OOM command not",
            "out of memory",
        ),
        ("ERR Error running script (call to f_01): @user_script:13: WRONGTYPE Operation against a key", "another type"),
    ],
)
def test_an_error_reply_says_what_is_wrong_with_the_node(error: str, said: str) -> None:
    assert said in decode(ReplyError(error)).reason
    assert said in explain(error)


@pytest.mark.parametrize(
    "reply", [[1, 1, 5], [0, 1, 5, b"x", 10], [2, 1, 10], [3], [3, 1], [3, 1, b""], [], b"OK", None]
)
def test_what_does_not_name_other_terms_is_no_refusal(reply: object) -> None:
    assert not decode(reply).fingerprint
