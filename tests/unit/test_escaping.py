"""`redlock._escaping`: a line of visible characters."""

from __future__ import annotations

import sys

import pytest

from redlock import QuorumUnavailable, _log
from redlock._core.votes import masked_token
from redlock._escaping import LONGEST_LABEL, LONGEST_TEXT, bounded_label, escape, excerpt, is_invisible
from redlock._transport import node_info
from redlock._transport.decoder import decode, disagrees, explain
from redlock._transport.node import describe_failure

SINCE = "@worker-1 since 2026-11-24T12:00:00Z"


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("account:42 'a' \\n", "account:42 'a' \\n"),
        ("ünï \N{SNOWMAN}", "ünï \N{SNOWMAN}"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("a\x9b2J\x00", "a\\x9b2J\\x00"),
        ("a\r\nb\u2028", "a\\r\\nb\\u2028"),
        ("\u202egpj\u2066", "\\u202egpj\\u2066"),
        ("a\u200b\xa0\u3164", "a\\u200b\\xa0\\u3164"),
        ("\u2d7f\U0001107f\U0001d159", "\\u2d7f\\U0001107f\\U0001d159"),
        ("\U00013441\U00013442\U00016fe4", "\\U00013441\\U00013442\\U00016fe4"),
        ("\udc80", "\\udc80"),
    ],
)
def test_an_invisible_character_becomes_its_escape_sequence(text: str, visible: str) -> None:
    assert escape(text) == visible
    assert escape(visible) == visible


def test_every_control_and_format_character_is_escaped() -> None:
    everything = list(map(chr, range(sys.maxunicode + 1)))
    invisible = set(filter(is_invisible, everything))
    for character in invisible:
        assert escape(character).isascii()
        assert escape(character).isprintable()
    # Unassigned and private characters: a later Unicode version may give them a glyph.
    unknown = "".join(one for one in everything if not one.isprintable() and one not in invisible)
    for begin in range(0, len(unknown), LONGEST_TEXT):
        part = unknown[begin : begin + LONGEST_TEXT]
        assert escape(part) == part


@pytest.mark.parametrize("task", ["t" * 1_000_000, "\u202e" * 1_000_000, "t" * 200 + "\U000e0100" * 50])
def test_an_owner_label_has_a_limit_and_keeps_its_end(task: str) -> None:
    label = bounded_label(task + SINCE)
    assert len(label) <= LONGEST_LABEL
    assert label.isprintable()
    assert label.endswith(SINCE)


@pytest.mark.parametrize("text", ["t" * 1_000_000, "\u0430" * 1_000_000, "\u202e" * 1_000_000])
def test_of_an_endless_text_only_the_beginning_is_escaped(text: str) -> None:
    """The sender of a task chooses its id; each character costs time, and each escape sequence memory."""
    assert escape(text) == escape(text[:100_000]) + "..."
    assert escape("t" * 100_000) == "t" * 100_000


def test_an_ordinary_owner_label_stays_as_it_is() -> None:
    label = f"2f1c9f0a-7a51-4d4c-8a2b-c9f31f0d6c55{SINCE}"
    assert bounded_label(label) == label


def test_a_holder_from_a_node_is_shown_escaped_and_short() -> None:
    assert masked_token(f"{'0' * 31}1:a\x1b[2J@h") == "a\\x1b[2J@h (00000000)"
    assert len(masked_token(f"{'0' * 31}1:{'x' * 60_000}")) < LONGEST_LABEL + 20
    assert masked_token(4 * "\x1b[2J\u202e") == "\\x1b[2J\\u202e..."


def test_what_a_node_says_is_shown_escaped_and_short() -> None:
    hostile = "\x1b[2J\u202e\n" + "x" * 60_000
    for said in (explain(f"-ODD {hostile}"), disagrees(hostile).reason, disagrees(hostile).fingerprint):
        assert said.isprintable()
        assert len(said) <= 1_300
        assert "\\x1b[2J\\u202e\\n" in said
        assert said.endswith("...")


@pytest.mark.parametrize(
    "reason",
    [
        explain("-ODD a; h:2: gone"),
        disagrees("a; h:2: gone").reason,
        decode([9, b"a; h:2: gone"]).reason,
        describe_failure(ValueError("a; h:2: gone"), 100),
        node_info.setting([b"maxmemory-policy", b"a; h:2: gone"]),
        node_info.server({"redis_version": "a; h:2: gone"}),
        explain("-ODD a\N{GREEK QUESTION MARK} h:2: gone"),
        explain("-ODD a\N{FULLWIDTH SEMICOLON} h:2: gone"),
    ],
)
def test_the_words_of_a_node_forge_no_reason_of_another(reason: str) -> None:
    error = QuorumUnavailable("name", 3, 5, {"h:1": reason, "h:3": "connection refused"})
    assert r"a\x3b h:2: gone" in str(error)
    for shown in (str(error), _log._plain(error.reasons)):
        assert shown.count(";") == 1, "between the two nodes"


def test_an_excerpt_of_a_short_text_is_the_text() -> None:
    assert excerpt("nodes=5 prefix=''", 20) == "nodes=5 prefix=''"
    assert excerpt("\x1b\x1b\x1b", 10) == "\\x1b\\x1..."


def test_blanks_reach_no_edge_of_a_terminal() -> None:
    assert excerpt("no vote" + 3 * " " + "lock1: votes", 40) == r"no vote \x20\x20lock1: votes"
    assert bounded_label("task" + 3 * " " + "lock1: votes@h") == r"task \x20\x20lock1: votes@h"


def test_a_reserved_character_without_a_glyph_is_invisible() -> None:
    assert escape("\u2065\ufff0\U000e0002\U000e0fff") == r"\u2065\ufff0\U000e0002\U000e0fff"
