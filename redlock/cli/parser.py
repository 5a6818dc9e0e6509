"""The parser of the command line, with its help."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

import redlock
from redlock._escaping import escape
from redlock._masking import mask_input
from redlock.cli import commands

if TYPE_CHECKING:
    from collections.abc import Callable


class Parser(argparse.ArgumentParser):
    """A parser that shows no password and no control character in an error, which repeats the typed text."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end the process."""
        super().error(mask_input(escape(message)))

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 - argparse's type is in no module
        # As later versions of Python; `close_streams` reports the failure.
        with contextlib.suppress(OSError):
            super()._print_message(message, file)


def command_parser() -> Parser:
    """Return the parser of all commands. The parsed options have the function of their command as `run`."""
    parser = Parser(prog="redlock", description="A quorum lock on independent Redis nodes.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {redlock.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = _command(
        subparsers,
        commands.simulate,
        help="let several clients compete for one lock",
        description="Each client is a process that starts after its delay, tries to acquire the lock, holds the lock, "
        "and releases it. The environment can set options too: REDLOCK_NODES, REDLOCK_TTL, ..., SIMULATE_DELAYS, "
        "SIMULATE_HOLD, ...",
    )
    _ttl_option(command)
    command.add_argument("--delays", metavar="S,S,...", help="each client's start, in seconds (default: 0,1,3)")
    command.add_argument("--hold", metavar="S", help="seconds that a client holds the lock (default: 2)")
    command.add_argument("--retries", metavar="N", help="how often a client tries again (default: 3)")
    command.add_argument("--retry-delay", metavar="S", help="seconds between tries, halved to doubled (default: 0.2)")
    command.add_argument("--resource", metavar="NAME", help="the name of the lock (default: shared-resource)")
    command.add_argument("--log-file", metavar="FILE", help="the file for all events (default: logger.log)")
    command.add_argument("--embedded", action="store_true", help="start five nodes for this run")
    command = _command(
        subparsers,
        commands.init,
        help="let brand-new nodes vote at once",
        description="Brand-new nodes abstain until max_ttl has passed, because they may have forgotten locks. If you "
        "know that these nodes can't have forgotten a lock, this command makes them vote at once.",
    )
    command.add_argument("--yes", action="store_true", help="do not ask")
    _diagnostic_commands(subparsers)
    _lock_commands(subparsers)
    return parser


def _diagnostic_commands(subparsers: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        subparsers,
        commands.status,
        help="show the nodes, the locks and their holders",
        description="Reads the state of all nodes, and changes nothing. VOTES has a sign for each node, in the order "
        "of the list of nodes: + reports this holder, - does not, ? did not answer. Exit status: 0 a quorum votes, "
        "3 no quorum votes.",
    )
    _timeout_option(command)
    command.add_argument("--watch", action="store_true", help="repeat every second, until Ctrl-C")
    command.add_argument("--json", action="store_true", help="print JSON; with --watch, a line each time")
    command.add_argument("--most", metavar="N", type=int, default=200, help="number of shown locks (default: 200)")
    command = _command(
        subparsers,
        commands.doctor,
        help="find problems of nodes, settings and broker, and name a fix for each",
        description="Exit status: 0 fine, 1 warnings, 2 unsafe or bad input, 3 no quorum votes. Put addresses with a "
        "password into the environment: the list of processes shows the command line to other users.",
    )
    _timeout_option(command)
    _ttl_option(command)
    command.add_argument(
        "--broker", metavar="URL", help="Celery's broker (default: the app's, else $CELERY_BROKER_URL)"
    )
    command.add_argument("--store", metavar="URL", help="the Redis with the data behind the fenced store")
    command.add_argument(
        "--database",
        metavar="URL",
        nargs="?",
        const=True,
        help="the database with the tables of the fence, as SQLAlchemy writes it (without URL: $DATABASE_URL)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _lock_commands(subparsers: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        subparsers,
        commands.run,
        usage="redlock run [options] RESOURCE -- COMMAND ...",
        help="run a program while a lock is held",
        description="Acquires the lock, runs the program, renews the lock during the run, and releases the lock. If "
        "the lock is about to be lost, the program's process group gets SIGTERM, and SIGKILL after the grace. If a "
        "renewal failed, this happens before the end of the lease; if the lock was taken away, after it. The "
        "environment of the program has REDLOCK_RESOURCE, REDLOCK_FENCE (the fencing token) and the settings of the "
        "lock; REDLOCK_NODES has no passwords. A signal that the caller ignores, as nohup does, stays ignored. Ctrl-Z "
        "can't suspend the program. If redlock itself is killed, the whole process group is killed. A process that "
        "the program leaves in the background is not protected, and no process that leaves the group (setsid, "
        "setpgid, an interactive shell).",
        epilog="Exit status: the program's, or 128 + n if signal n ended it; 2 bad input, 69 no quorum of nodes, "
        "70 the lock was lost, 73 the log file can't be opened, 75 another client holds the lock, 126 the program "
        "can't be run, 127 the program was not found.",
    )
    command.add_argument("resource", metavar="RESOURCE", help="the name of the lock")
    _ttl_option(command)
    command.add_argument("--wait", metavar="S", type=float, help="seconds to wait; 0 tries once (default: for ever)")
    command.add_argument("--pass-credentials", action="store_true", help="pass the nodes' passwords to the program")
    command.add_argument("--grace", metavar="S", type=float, help="seconds to SIGKILL (default: a third of the ttl)")
    command.add_argument("--log-file", metavar="FILE", help="the file for the lock's events (default: none)")
    command = _command(
        subparsers,
        commands.release,
        help="take a lock away from its holder",
        description="Raises the fence first, then deletes the lock and wakes a waiter. The old holder finds out at its "
        "next renewal; until then the old and the next holder both believe that they hold the lock. Exit status: 0 "
        "done, or no client holds the lock; 1 declined, 2 bad input, 3 no quorum, 4 nothing was changed, because the "
        "lock is no longer that of the holder that was shown, or because its value is that of another program.",
    )
    command.add_argument("resource", metavar="RESOURCE", help="the name of the lock")
    command.add_argument("--force", action="store_true", help="required: without force only the holder can release")
    command.add_argument("--yes", action="store_true", help="do not ask")


def _command(
    subparsers: argparse._SubParsersAction[Parser],
    run: Callable[[argparse.Namespace], int],
    **texts: Any,  # noqa: ANN401 - of argparse
) -> Parser:
    """Add a command, which has the name of its function, with the options that every command has."""
    command = subparsers.add_parser(run.__name__, **texts)
    command.set_defaults(run=run)
    command.add_argument("-A", "--app", metavar="APP", help="take the lock's settings from this Celery app")
    command.add_argument("--nodes", metavar="URL,URL,...", help="the lock nodes (default: 127.0.0.1:63791 to 63795)")
    return command


def _timeout_option(command: Parser) -> None:
    command.add_argument("--timeout", metavar="S", type=float, default=1.0, help="seconds for an answer (default: 1)")


def _ttl_option(command: Parser) -> None:
    command.add_argument("--ttl", metavar="S", help="seconds that a lease lasts (default: 5)")
