"""The check of English: each fault has its line, and neither code nor an entry is a part of a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import english
from tests.english import Block

LONG = "word " * 30 + "end."
SHORT = "word " * 29 + "end."


def found(name: str, text: str) -> list[tuple[int, str]]:
    faults = [fault.split(":", 2) for fault in english.examine(name, text).faults]
    return [(int(line), fault.strip()) for _, line, fault in faults]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.py", f'"""Short.\n\n{LONG}\n"""\n', 3),
        ("a.py", f'x = 1\n"""{LONG}"""\n', 2),
        ("a.py", f"x = 1\n# Short.\n# {LONG}\n", 3),
        ("a.py", f'def f():\n    """Short.\n\n    Args:\n        a: Short.\n        b: {LONG}\n    """\n', 6),
        ("a.lua", f"local x = 1\n-- {LONG}\n", 2),
        ("a.yml", f"x: 1\n# Short.\n# {LONG}\n", 3),
        ("Makefile", f"x:\n\tcommand # {LONG}\n", 2),
        ("a.md", f"# Title\n\nShort. {LONG}\n", 3),
        ("a.md", f"| a | b |\n|---|---|\n| Short. | {LONG} |\n", 3),
        ("a.md", f"Text\n\n- Short.\n- {LONG}\n", 4),
    ],
)
def test_a_long_sentence_is_named_with_its_line(name: str, text: str, line: int) -> None:
    assert found(name, text) == [(line, f"31 words, more than 30: {LONG}")]
    assert found(name, text.replace(LONG, SHORT)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", f"x = '{LONG}'\n"),
        ("a.py", f"x = 1  # noqa: X - {LONG}\n"),
        ("a.py", f'"""Short.\n\nText:\n\n    {LONG}\n"""\n'),
        ("a.py", f'"""Short.\n\n>>> {LONG}\n"""\n'),
        ("a.toml", f"x = 1 # {SHORT[:-1]}\ny = 2 # {SHORT[:-1]}\n"),
        ("run", f"#!/bin/{LONG}\n"),
        ("a.yml", f"x: '{LONG}'\ny: a#{LONG}\n"),
        ("a.md", f"```python\n{LONG}\n```\n"),
        ("a.md", f"    {LONG}\n"),
        ("a.md", f"`{LONG}`\n"),
        ("a.md", f"[link](https://example.org/{LONG.replace(' ', '-')})\n"),
        ("a.md", f"{SHORT} {SHORT}\n"),
        ("a.md", f"| {SHORT[:-1]} | {SHORT[:-1]} |\n"),
        ("a.py", f"# {SHORT[:-1]}\n\n# {SHORT[:-1]}\n"),
        ("a.py", f'"""Short.\n\nArgs:\n    a: {SHORT[:-1]}\n    b: {SHORT[:-1]}\n"""\n'),
    ],
)
def test_code_and_separate_texts_are_no_sentence(name: str, text: str) -> None:
    assert found(name, text) == []


def test_a_semicolon_or_a_colon_does_not_end_a_sentence() -> None:
    half = "word " * 15 + "word"
    assert found("a.md", f"{half}; {half}: end.\n") == [(1, f"33 words, more than 30: {half}; {half}: end.")]


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    (sentence,) = english.sentences(Block(1, "A node, e.g. the first, votes."))
    assert sentence.words == 7


def test_a_long_name_of_a_test_is_named() -> None:
    name = f"test_{'x' * 55}"
    assert found("a.py", f"\n\nasync def {name}() -> None: ...\n") == []
    assert found("a.py", f"\n\nasync def {name}x() -> None: ...\n") == [(3, f"61 characters, more than 60: {name}x")]


def test_vague_words_are_listed_where_a_file_has_too_many() -> None:
    text = "The node votes.\n\n" * 33 + "Now it is what it is.\n"
    assert found("a.md", text) == [
        (1, "2.9% of 105 words are vague, more than 2%"),
        (67, "vague it, what, it: Now it is what it is."),
    ]
    assert found("a.md", text * 10 + "The node votes.\n\n" * 300) == []


def test_a_number_before_a_noun_is_not_vague() -> None:
    (number,) = english.sentences(Block(1, "One round has one vote of each node."))
    (pronoun,) = english.sentences(Block(1, "This one, the one that has one of them, is one."))
    assert number.vague == []
    assert pronoun.vague == ["one"] * 4


def test_a_short_text_may_have_a_vague_word() -> None:
    assert found("a.md", "The node is what it is.\n") == []


@pytest.mark.parametrize("begin", ["It", "What", "One of them", "- Nobody", "**Who", "(whoever"])
def test_no_sentence_begins_with_a_vague_word(begin: str) -> None:
    ((line, fault),) = found("a.md", f"The node votes. {begin} votes.\n" if begin[0] != "-" else f"{begin} votes.\n")
    assert (line, fault.partition(":")[0]) == (1, "begins with a vague word")
    assert found("a.md", "One node votes. What votes? The node that votes is one.\n") == []


@pytest.mark.parametrize(("vague", "status"), [(9, 0), (10, 1)])
def test_all_files_together_have_a_stricter_limit(
    vague: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "The node votes.\n\n" * (330 - vague)
        + "Now it is.\n\n" * vague
        + "One two three four five six seven eight nine ten.\n"
    )
    (tmp_path / "a.md").write_text(words)
    monkeypatch.setattr(english, "ROOT", tmp_path)
    assert english.main([]) == status
    assert english.main(["a.md"]) == 0
    capsys.readouterr()


def test_a_sentence_over_two_lines_begins_at_its_first() -> None:
    begins = [
        (sentence.line, sentence.text) for sentence in english.sentences(Block(7, "One. Two\nthree. Four\nfive."))
    ]
    assert begins == [(7, "One."), (7, "Two three."), (8, "Four five.")]


def test_each_word_of_a_file_is_counted() -> None:
    report = english.examine("a.py", '"""Two what."""\n# three four\nx = "five"\n')
    assert (report.faults, report.words, report.vague) == ([], 4, 1)


def test_the_readme_has_fewer_than_900_words() -> None:
    assert len((english.ROOT / "README.md").read_text(encoding="utf-8").split()) < 900
