"""The command line: `redlock` and `python -m redlock`.

Invariants:
1. An error of this package is one line on stderr and an exit status, and never a traceback.
2. Options override the environment, and the environment overrides the defaults.
3. Exit status: 0 done, 1 declined, 2 bad input, 3 no quorum, 130 Ctrl-C. The help texts of `doctor`, `run` and
   `release` list their own. An output that can't be written changes no status.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import TYPE_CHECKING

from redlock.cli.commands import BAD_INPUT, DECLINED, INTERRUPTED, NO_QUORUM, UNCHANGED
from redlock.cli.output import close_streams, open_streams, say
from redlock.cli.parser import command_parser
from redlock.errors import QuorumUnavailable, RedlockError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BAD_INPUT", "DECLINED", "INTERRUPTED", "NO_QUORUM", "UNCHANGED", "main"]


def main(arguments: Sequence[str] | None = None, app: object = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        arguments: The command line; None means the arguments of this process.
        app: The Celery app with the lock's settings, from `celery -A app redlock`.
    """
    open_streams()
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        options.app = app if options.app is None else options.app
        # The doctor reports settings that work and are unwise, such as an even number of nodes.
        warnings.simplefilter("ignore", UserWarning)
        status: int = options.run(options)
    except QuorumUnavailable as error:
        say(str(error))
        return NO_QUORUM
    except (RedlockError, OSError) as error:
        say(str(error))
        return BAD_INPUT
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED
    finally:
        close_streams()
    return status


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    words = list(arguments)
    # The words after the first -- of `run` are the command of another program, and no options of `redlock`.
    end = words.index("--") if words[:1] == ["run"] and "--" in words else len(words)
    parser = command_parser()
    options = parser.parse_args(words[:end], argparse.Namespace(command=words[end + 1 :]))
    # Some versions of argparse take the value -- for no value, and make an empty list of it.
    if [] in [value for name, value in vars(options).items() if name != "command"]:
        parser.error("-- is no value of an option")
    return options
