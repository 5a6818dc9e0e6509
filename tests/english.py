"""Checks the English of docstrings, comments and pages: `python -m tests.english [FILE ...]`, without files all.

Invariants:
1. A sentence has at most 30 words. Code in backticks counts as one word.
2. No sentence begins with a vague word, a pronoun in place of a noun. A question may.
3. At most 2 % of the words of a file are vague, and less than 1 % of all words.
4. The name of a test has at most 60 characters.
5. A fault names the file, the line and the sentence. The exit status is 1 if there is a fault.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LONGEST_SENTENCE = 30
LARGEST_SHARE = 0.02
LARGEST_TOTAL = 0.01
"""The share of all files together."""
LONGEST_NAME = 60
"""Characters of the name of a test."""
FEWEST_WORDS = 50
"""The share of vague words has no meaning in a shorter text."""
_PRONOUNS = "who|whom|whose|whoever|somebody|someone|nobody|anybody|everybody|everyone|what|whatever|it|ones"
_NO_NOUN = "are|by|can|for|has|have|in|is|may|must|of|on|that|to|was|which|who|will|with"
VAGUE = re.compile(rf"\b(?:{_PRONOUNS})\b(?![-'])|\bone\b(?! (?!(?:{_NO_NOUN})\b)[a-zX])(?!-)", re.IGNORECASE)
"""The vague words. A number before a noun, as in "one round", is not vague."""
FOLDERS = ("benchmarks", "docs", "examples", "redlock", "tasks", "tests", "workers")
FILES = (
    "*.md",
    "*.py",
    "*.toml",
    "*.yml",
    "Makefile",
    ".ci/run",
    ".dockerignore",
    "workers/Dockerfile",
    *(f"{folder}/**/*.{ending}" for folder in FOLDERS for ending in ("md", "py", "lua")),
)

_ABBREVIATED = r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)"
_END = re.compile(rf"""{_ABBREVIATED}[.!?]["')*_]*(?=\s|$)""")
_CODE = re.compile(r"``.*?``|`[^`]*`|https?://\S+", re.DOTALL)
_ITEM = re.compile(r"\s*([-*]|\d+\.)\s")
_ENTRY = re.compile(r"^\s+[\w*.]+: ")
_SECTION = re.compile(r"(Args|Attributes|Invariants|Raises|Returns|Rules.*|Yields):$")
_TEST = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
_HASH = re.compile(r"^(.*?)(?:(?:^|(?<=\s))(#+)(\s.*))?$")
_NO_PROSE = re.compile(r"#\s*(noqa|type:|pragma|fmt:|!)")


class Block(NamedTuple):
    """A paragraph, an item of a list, a cell of a table or a comment, with its first line."""

    line: int
    text: str


class Sentence(NamedTuple):
    """A sentence with its first line, the number of its words, and the vague words."""

    line: int
    text: str
    words: int
    vague: list[str]
    begins_vague: bool


class Report(NamedTuple):
    """The faults of one file, the number of its words, and the number of vague words."""

    faults: list[str]
    words: int
    vague: int


def main(arguments: Sequence[str]) -> int:
    """Print the faults of these files, or of all files, and return the exit status."""
    names = list(arguments) or _all_files()
    faults = words = vague = 0
    for name in names:
        report = examine(name, (ROOT / name).read_text(encoding="utf-8"))
        faults, words, vague = faults + len(report.faults), words + report.words, vague + report.vague
        for fault in report.faults:
            sys.stdout.write(f"{fault}\n")
    share = vague / max(1, words)
    sys.stdout.write(f"{faults} faults; {share:.1%} of {words} words in {len(names)} files are vague\n")
    return int(faults > 0 or (not arguments and share >= LARGEST_TOTAL))


def _all_files() -> list[str]:
    return sorted({str(path.relative_to(ROOT)) for glob in FILES for path in ROOT.glob(glob)})


def examine(name: str, text: str) -> Report:
    """Examine a file's text, which its name says how to read."""
    found = [sentence for block in _READERS.get(Path(name).suffix, hash_blocks)(text) for sentence in sentences(block)]
    faults = [
        f"{name}:{sentence.line}: {sentence.words} words, more than {LONGEST_SENTENCE}: {sentence.text}"
        for sentence in found
        if sentence.words > LONGEST_SENTENCE
    ]
    faults += [
        f"{name}:{sentence.line}: begins with a vague word: {sentence.text}"
        for sentence in found
        if sentence.begins_vague and not sentence.text.endswith("?")
    ]
    faults += [
        f"{name}:{_line(text, test)}: {len(test[1])} characters, more than {LONGEST_NAME}: {test[1]}"
        for test in _TEST.finditer(text)
        if name.endswith(".py") and len(test[1]) > LONGEST_NAME
    ]
    words = sum(sentence.words for sentence in found)
    vague = sum(len(sentence.vague) for sentence in found)
    if words >= FEWEST_WORDS and vague > words * LARGEST_SHARE:
        faults += [f"{name}:1: {vague / words:.1%} of {words} words are vague, more than {LARGEST_SHARE:.0%}"]
        for sentence in found:
            if sentence.vague:
                faults.append(f"{name}:{sentence.line}: vague {', '.join(sentence.vague)}: {sentence.text}")
    return Report(faults, words, vague)


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def sentences(block: Block) -> Iterator[Sentence]:
    """The sentences of a block. A colon or a semicolon ends no sentence."""
    # Code keeps its length and its line breaks, so that a place in the text remains a place in the block.
    text = _CODE.sub(lambda code: re.sub(r"[^\n]", "X", code[0]), block.text)
    begin = 0
    for end in [*(found.end() for found in _END.finditer(text)), len(text)]:
        plain, shown = text[begin:end], " ".join(_ITEM.sub("", block.text[begin:end]).split())
        words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", plain))
        if words:
            skipped = len(plain) - len(plain.lstrip())
            even = _ITEM.sub("", " ".join(plain.split()) + " ").lstrip("*_(\"' ")
            vague = [word.lower() for word in VAGUE.findall(even)]
            line = block.line + text.count("\n", 0, begin + skipped)
            yield Sentence(line, shown, words, vague, bool(VAGUE.match(even)))
        begin = end


def python_blocks(text: str) -> Iterator[Block]:
    """The docstrings, also those below an assignment, and the comments of Python source."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield from _docstring_blocks(node.lineno, inspect.cleandoc(docstring))
    comments = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not _NO_PROSE.match(token.string)
    ]
    yield from _comment_blocks((token.start[0], token.start[1], token.string.lstrip("#").strip()) for token in comments)


def lua_blocks(text: str) -> Iterator[Block]:
    """The comments of a Lua script."""
    found = [(number, line.partition("--")) for number, line in enumerate(text.splitlines(), 1) if "--" in line]
    yield from _comment_blocks((number, len(code), comment.strip()) for number, (code, _, comment) in found)


def hash_blocks(text: str) -> Iterator[Block]:
    """The comments behind a `#` in a file of settings, a Makefile or a script; a comment behind code is alone."""
    lines: list[tuple[int, str, bool]] = []
    for number, line in enumerate(text.splitlines(), 1):
        code, comment, words = _HASH.match(line).groups()  # type: ignore[union-attr]  # matches each line
        lines.append((number, (words or "").strip(), bool(comment and code.strip())))
    yield from _joined(lines)


def markdown_blocks(text: str) -> Iterator[Block]:
    """The paragraphs, list items, headings and table cells of Markdown; not its code."""
    fenced = False
    lines: list[tuple[int, str, bool]] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        fenced = fenced != fence
        code = fenced or fence or line.startswith(("    ", "<!--"))
        if line.lstrip().startswith("|"):
            lines += [(number, cell.strip(" -:"), True) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        else:
            plain = re.sub(r"\]\([^)]*\)", "]", line.lstrip("#> "))
            lines.append((number, "" if code else plain, bool(_ITEM.match(line)) or line.startswith("#")))
    yield from _joined(lines)


def _docstring_blocks(first: int, text: str) -> Iterator[Block]:
    lines: list[tuple[int, str, bool]] = []
    entries = False
    for number, line in enumerate(text.splitlines(), first):
        if line.strip():
            heading = bool(_SECTION.match(line))
            entries = heading or (entries and line.startswith(" "))
            code = line.lstrip().startswith((">>>", "...")) or (line.startswith("    ") and not entries)
            plain = _ENTRY.sub("", line, count=1) if entries else line
            lines.append((number, "" if heading or code else plain, plain != line or bool(_ITEM.match(line))))
        else:
            lines.append((number, "", False))
    yield from _joined(lines)


def _comment_blocks(comments: Iterable[tuple[int, int, str]]) -> Iterator[Block]:
    """Comments below each other in the same column are one text."""
    lines: list[tuple[int, str, bool]] = []
    last = (0, 0)
    for number, column, text in comments:
        lines.append((number, text, (number - 1, column) != last))
        last = (number, column)
    yield from _joined(lines)


def _joined(lines: Iterable[tuple[int, str, bool]]) -> Iterator[Block]:
    """Lines become blocks: an empty line ends a block, and a marked line begins a block."""
    first, block = 0, list[str]()
    for number, line, begins in lines:
        if block and (begins or not line.strip()):
            yield Block(first, "\n".join(block))
            block = []
        if line.strip():
            first = first if block else number
            block.append(line)
    if block:
        yield Block(first, "\n".join(block))


_READERS: dict[str, Callable[[str], Iterator[Block]]] = {
    ".lua": lua_blocks,
    ".md": markdown_blocks,
    ".py": python_blocks,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
