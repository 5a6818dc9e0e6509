"""Reads settings from files, such as Docker secrets.

Invariants:
1. No message repeats a value or the name of a file: either may be a password under a wrong name.
2. A password in a file is the same as in a variable, except for the line break that an editor puts at the end.
3. An empty file is a mistake, and never a setting.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def content(variable: str, path: object, *, is_password: bool) -> str:
    """The value in the file that this variable names.

    Raises:
        ConfigurationError: The file can't be read, or is empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigurationError(f"{variable} is {type(path).__name__}; it must be the name of a file")
    text, fault = _read(path)
    if fault:
        raise ConfigurationError(f"the file that {variable} names can't be read: {fault}")
    value = text.rstrip("\r\n") if is_password else text.strip()
    if not value.strip():
        raise ConfigurationError(f"the file that {variable} names is empty; write the value into it")
    return value


def _read(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The text of a file, or an empty text and the reason. No error leaves this function: an error has the path."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig"), ""  # editors may write a byte order mark
    except OSError as error:
        return "", (error.strerror or "it can't be opened").lower()
    except ValueError:
        return "", "it is no text"


def unshown(files: Mapping[str, str], call: Callable[[], T]) -> T:
    """The result of a call that checks settings, some of which stand in files named by these variables.

    Raises:
        ConfigurationError: The error of the call, without values from files.
    """
    try:
        return call()
    except ConfigurationError as error:
        said = str(error)
        # A value in quotes can contain the name of another setting.
        told = _QUOTED.sub("", said)
        names = [name for name in files if re.search(rf"\b(redlock_|counter_)?{name}\b", told, re.IGNORECASE)]
        if not names:
            raise
    # Outside the handler, because its error repeats the value.
    raise ConfigurationError(
        f"{names[0]}, from the file that {files[names[0]]} names, is not valid, or does not fit the other settings; "
        "its value may be a password and is not shown"
    )
