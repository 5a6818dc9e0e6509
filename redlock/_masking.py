"""Hides secrets in text: `mask` for text of any origin, `mask_input` and `quoted` where a message repeats input.

Invariants:
1. No other code hides secrets: a gap in `mask` is closed here, for every message, log line and `repr`.
2. In doubt this module hides more: a lost host name costs less than a password in a log.
3. The time grows with the length of the text, not with its square or worse: tasks and nodes choose parts of the text.
   A search holds up all threads of the process, and the leases that they renew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HIDDEN = "***"

_NAME = r"\w*(?:passw(?:or)?d|passphrase)"
_SCHEME = r"(?<![\w+.-])[\w+.-]+://"
# Up to the last @ before the next address: user names and passwords may contain an @. The placeholder that messages of
# this package use for credentials is no address.
_IN_ADDRESS = re.compile(rf"({_SCHEME}(?!\[user:password@\])(?:(?!{_SCHEME})[^\s:])*:)(?:(?!{_SCHEME})\S)+@")
# A blank does not end a password between quotes.
_IN_QUOTES = re.compile(r"""(['"]\w[\w+.-]*://[^\s:'"]*:)[^'"]*@""")
# The `repr` of an error, or JSON in JSON, has backslashes before the quotes of its text, and `\n` for a line break. A
# line of a log has `\x20` for a blank behind a blank.
_BLANKS = r"(?:\s|\\+(?:[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}))*"
_QUOTED = re.compile(
    rf"""\b{_NAME}(?:\\*['"]{_BLANKS},|(?:\\*['"])?{_BLANKS}[=:]){_BLANKS}b?(\\*)(['"])""", re.IGNORECASE
)
_BARE = re.compile(rf"""((?:\b{_NAME}|[?&]\w*kwargs)=)(?!\\*['"])([^\s&]+)""", re.IGNORECASE)
# The `repr` of a connection pool, in which blanks and & do not end a password.
_IN_CALL = re.compile(rf"(?<=[(,])({_NAME}=)(?!\\*['\"])(.+?)(?=,\w+=|\(\w+=|\)>)", re.IGNORECASE)
_DEEPEST = 7
"""The most backslashes before a quote whose end is searched. Behind more, all text is hidden."""
_ENDS = "@)>"
"""The ends of an address and of a call."""
_WORD = re.compile(r"\S+")
_LONGEST = 100_000
"""The most characters that are searched, because a search keeps all other threads from running."""


def mask(text: str) -> str:
    """The text with its secrets hidden.

    Hides the password in an address, passwords and Sentinel arguments in its query, and passwords in the `repr`
    or JSON of dictionaries and calls. If a longer text than 100,000 characters may have a secret, its end is hidden.

    Example:
        >>> mask("no answer from redis://lock:hunter2@lock1:6379")
        'no answer from redis://lock:***@lock1:6379'
    """
    # A search for a word is far quicker than the expressions, and most text is a line of the lock's log.
    # The @ of an address may have been behind the end of a long text that is shortened.
    has_address = "://" in text and ("@" in text or len(text) > _LONGEST)
    if not (has_address or "ass" in text or "ASS" in text or "kwargs=" in text):
        return text
    if len(text) > _LONGEST:
        return _of_the_beginning(mask, text)
    shown: list[str] = []
    done = 0
    # Secrets can overlap, because a task or a node chooses a part of the text: the sum of both is hidden.
    for secret in sorted(_secrets(text)):
        if secret.begin >= done:
            shown += [text[done : secret.first], HIDDEN, secret.closing]
        done = max(done, secret.end)
    return "".join((*shown, text[done:]))


def quoted(value: object, most: int = 60) -> str:
    """The `repr` of an input value for a message: without secrets, then cut to this many characters."""
    # Masked before the cut: a password in half an address can't be recognised.
    return mask_input(repr(value))[:most]


def mask_input(text: str) -> str:
    """Text that repeats what a user has typed, with its secrets hidden.

    Hides `user:password@host` without a scheme too. In other text that form is no sign of a secret. Of a longer text
    than 100,000 characters the end is hidden.
    """
    if len(text) > _LONGEST:
        return _of_the_beginning(mask_input, text)
    return _WORD.sub(_hide_credentials, mask(text))


def _of_the_beginning(hide: Callable[[str], str], text: str) -> str:
    # An address that is cut before its @ would be no address, and a call before its end would be no call.
    shown = hide(f"{text[: _LONGEST - len(_ENDS)]}{_ENDS}")
    return f"{shown.removesuffix(_ENDS[1:]).removesuffix(_ENDS[0])}..."


class _Secret(NamedTuple):
    """A secret with its name: the places of the name, of the secret and of the text behind, and a closing quote."""

    begin: int
    first: int
    end: int
    closing: str = ""


def _secrets(text: str) -> Iterator[_Secret]:
    """All secrets of a text, each found by itself."""
    for pattern in (_IN_QUOTES, _IN_ADDRESS):
        yield from (_Secret(found.start(), found.end(1), found.end() - 1) for found in pattern.finditer(text))
    yield from (_quoted_secret(text, found) for found in _QUOTED.finditer(text))
    yield from (_Secret(found.start(), found.start(2), found.end()) for found in _IN_CALL.finditer(text))
    yield from map(_bare_secret, _BARE.finditer(text))


def _quoted_secret(text: str, found: re.Match[str]) -> _Secret:
    """The secret behind an opening quote: up to the next quote with as many backslashes, or to the end of the text."""
    backslashes, quote = found.groups()
    end = None
    if len(backslashes) <= _DEEPEST:
        # A quote in the secret has more backslashes than those around the secret.
        end = re.compile(rf"(?<!\\){re.escape(backslashes)}{quote}").search(text, found.end())
    return _Secret(found.start(), found.end(), end.end() if end else len(text), backslashes + quote)


def _bare_secret(found: re.Match[str]) -> _Secret:
    """A password without quotes. The brackets, and the quote before them, at its end are not a part of it."""
    secret = found[2].rstrip(",)]}")
    if secret.endswith(("'", '"')):
        secret = secret[:-1].rstrip("\\")
    return _Secret(found.start(), found.start(2), found.start(2) + (len(secret) or 1))


def _hide_credentials(found: re.Match[str]) -> str:
    credentials, at, place = found[0].rpartition("@")
    return f"{HIDDEN}@{place}" if at and ":" in credentials else found[0]
