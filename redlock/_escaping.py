"""Escaping of foreign text for log lines, terminals, pages and metrics.

Invariants:
1. Every output of this package uses `escape`.
2. The result is a single line of visible characters.
3. A text has a limit: the sender of a task chooses its id, and each character costs time and memory.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_TEXT = 100_000
"""The most characters of a text that `escape` reads."""
LONGEST_LABEL = 255
"""The length of an owner label, in characters."""
_LABEL_TAIL = 127
"""The end of a label names the host and the start time, so a label that is too long loses its middle."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories without a glyph: controls, bidirectional and zero-width marks, halves of pairs, line breaks."""
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u2d7f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U0001107f\U00013441\U00013442\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)
"""Letters, marks, symbols and reserved characters of other categories that have no glyph of their own either."""
_BLANKS = re.compile(" {2,}")
_SEMICOLON = re.compile("[;\u037e\ufe14\ufe54\uff1b]")
"""Also the characters that look like a semicolon, which Unicode declares to be compatible with it."""


def is_invisible(character: str) -> bool:
    """Whether a reader would not see this character, or would take the character for an ordinary space."""
    category = unicodedata.category(character)
    return category in _HIDDEN or (category == "Zs" and character != " ") or bool(_BLANK.match(character))


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """The beginning of a text that is longer than so many characters, or the text itself."""
    return text if len(text) <= most else f"{text[:most]}..."


def escape(text: str) -> str:
    r"""The text with each invisible character as its escape sequence, for example `\n`, `\x1b` or `\u202e`.

    Of a longer text than 100,000 characters only the beginning.
    """
    text = shortened(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) if is_invisible(character) else character for character in text)


def escape_blanks(text: str) -> str:
    r"""The text with all but the first of several blanks as `\x20`.

    Blanks up to the edge of a terminal would look like the end of the line.
    """
    return _BLANKS.sub(lambda found: " " + (len(found[0]) - 1) * r"\x20", text) if "  " in text else text


def excerpt(text: str, most: int) -> str:
    """The beginning of a text, escaped with its runs of blanks, in at most this many characters."""
    shown = escape_blanks(escape(text[:most]))
    return shown if len(text) <= most and len(shown) <= most else f"{shown[: most - 3]}..."


def statement(text: str, most: int) -> str:
    r"""The words of a server, as `excerpt`, with `;` as `\x3b`: a list of reasons has a semicolon between two nodes."""
    return excerpt(_SEMICOLON.sub(r"\\x3b", text[: most + 1]), most)


def bounded_label(text: str) -> str:
    """An owner label as nodes store it: escaped, and at most `LONGEST_LABEL` characters."""
    # Escaping can make a text ten times as long, so the text is cut first.
    label = escape_blanks(escape(text if len(text) <= LONGEST_LABEL else _without_middle(text)))
    return label if len(label) <= LONGEST_LABEL else _without_middle(label)


def _without_middle(text: str) -> str:
    return f"{text[: LONGEST_LABEL - _LABEL_TAIL - 3]}...{text[-_LABEL_TAIL:]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
