"""Hides secrets in text: `mask` for text of any origin, `mask_input` and `quoted` where a message repeats input.

Invariants:
1. No other code hides secrets: a gap in `mask` is closed here, for every message, log line and `repr`.
2. In doubt this module hides more: a lost host name costs less than a password in a log.
3. The time grows with the length of the text, not with its square or worse: tasks and nodes choose parts of the text.
   A search holds up all threads of the process, and the leases that they renew.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_NAME = r"\w*(?:passw(?:or)?d|passphrase)"
_SCHEME = r"(?<![\w+.-])[\w+.-]+://"
# Up to the last @ before the next address: user names and passwords may contain an @. The placeholder that messages of
# this package use for credentials is no address.
_IN_ADDRESS = re.compile(rf"({_SCHEME}(?!\[user:password@\])(?:(?!{_SCHEME})[^\s:])*:)(?:(?!{_SCHEME})\S)+@")
# A blank does not end a password between quotes.
_IN_QUOTES = re.compile(r"""(['"]\w[\w+.-]*://[^\s:'"]*:)[^'"]*@""")
# A text that was cut off has no second quote. No character has two ways to match, or the search would try them all.
_QUOTED = re.compile(
    rf"""(\b{_NAME}['"]?\s*[=:]\s*b?)(['"])(?:\\.|(?!\2)[^\\])*(?:\2|\\?\Z)""", re.IGNORECASE | re.DOTALL
)
_BARE = re.compile(rf"""((?:\b{_NAME}|[?&]\w*kwargs)=)(?!['"])([^\s&]+)""", re.IGNORECASE)
_WORD = re.compile(r"\S+")


def mask(text: str) -> str:
    """The text with its secrets hidden.

    Hides the password in an address, passwords and Sentinel arguments in its query, and passwords in the `repr`
    or JSON of dictionaries and calls.

    Example:
        >>> mask("no answer from redis://lock:hunter2@lock1:6379")
        'no answer from redis://lock:***@lock1:6379'
    """
    # A search for a word is far quicker than the expressions, and most text is a line of the lock's log.
    if "://" in text and "@" in text:
        text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", _IN_QUOTES.sub(rf"\1{HIDDEN}@", text))
    if "ass" in text or "ASS" in text or "kwargs=" in text:
        text = _BARE.sub(_hide_bare, _QUOTED.sub(rf"\1\2{HIDDEN}\2", text))
    return text


def quoted(value: object, most: int = 60) -> str:
    """The `repr` of an input value for a message: without secrets, then cut to this many characters."""
    # Masked before the cut: a password in half an address can't be recognised.
    return mask_input(repr(value))[:most]


def mask_input(text: str) -> str:
    """Text that repeats what a user has typed, with its secrets hidden.

    Hides `user:password@host` without a scheme too. In other text that form is no sign of a secret.
    """
    return _WORD.sub(_hide_credentials, mask(text))


def _hide_bare(found: re.Match[str]) -> str:
    """Hide a password without quotes. The brackets, and the quote before them, at its end are not a part of it."""
    value = found[2]
    secret = value.rstrip(",)]}")
    if secret.endswith(("'", '"')):
        secret = secret[:-1]
    return f"{found[1]}{HIDDEN}{value[len(secret) or 1 :]}"


def _hide_credentials(found: re.Match[str]) -> str:
    credentials, at, place = found[0].rpartition("@")
    return f"{HIDDEN}@{place}" if at and ":" in credentials else found[0]
