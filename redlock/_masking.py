"""Hides secrets in text: `mask` for text of any origin, `quoted` for an input value that a message repeats.

Invariants:
1. No other code hides secrets: a gap in `mask` is closed here, for every message, log line and `repr`.
2. In doubt this module hides more: a lost host name costs less than a password in a log.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_NAME = r"\w*(?:passw(?:or)?d|passphrase)"
# Up to the last @ before the next address: user names and passwords may contain an @. The placeholder that messages of
# this package use for credentials is no address.
_IN_ADDRESS = re.compile(r"(\b\w[\w+.-]*://(?!\[user:password@\])(?:(?!\w+://)[^\s:])*:)(?:(?!\w+://)\S)+@")
# A blank does not end a password between quotes.
_IN_QUOTES = re.compile(r"""(['"]\w[\w+.-]*://[^\s:'"]*:)[^'"]*@""")
_QUOTED = re.compile(rf"""(\b{_NAME}['"]?\s*[=:]\s*b?)(['"])(?:\\.|(?!\2).)*\2""", re.IGNORECASE | re.DOTALL)
_END = r"""(?=['"]?[,)\]}]*(?:[\s&]|$))"""
_BARE = re.compile(rf"""((?:\b{_NAME}|[?&]\w*kwargs)=)(?!['"])[^\s&]+?{_END}""", re.IGNORECASE)
_NO_SCHEME = re.compile(r"\S*:\S*@")


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
        text = _BARE.sub(rf"\1{HIDDEN}", _QUOTED.sub(rf"\1\2{HIDDEN}\2", text))
    return text


def quoted(value: object, most: int = 60) -> str:
    """The `repr` of an input value for a message: without secrets, then cut to this many characters.

    Hides `user:password@host` without a scheme too. In other text that form is no sign of a secret.
    """
    # Masked before the cut: a password in half an address can't be recognised.
    return _NO_SCHEME.sub(f"{HIDDEN}@", mask(repr(value)))[:most]
