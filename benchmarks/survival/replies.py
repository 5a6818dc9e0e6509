"""The loop of a program under test: a command and its reply are lines of JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def reply_to_commands(command: Callable[[str], Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Reply to the commands of standard input until its end.

    Args:
        command: The function for the name of a command. An unknown name is an error of the harness and not a reply.
    """
    for line in sys.stdin:
        said = json.loads(line)
        do = command(said["do"])
        try:
            reply = do(said)
        except Exception as exc:  # noqa: BLE001 - the error of the library under test is the measured result
            reply = {"error": f"{type(exc).__name__}: {exc}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
