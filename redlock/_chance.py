"""Random numbers for pauses and owner tokens.

Invariants: the acquire loop has no other source of chance.
"""

from __future__ import annotations

import random
import secrets


def fraction() -> float:
    """A random number for the jitter of a pause, 0 <= number < 1; not for secrets."""
    return random.random()  # noqa: S311 - jitter


def secret() -> str:
    """The secret part of an owner token: 128 bits in hexadecimal digits."""
    return secrets.token_hex(16)
