"""The command line: `redlock` and `python -m redlock`.

Invariants:
1. An error of this package is one line on stderr and an exit status, and never a traceback.
2. Options override the environment, and the environment overrides the defaults.
3. Exit status: 0 done, 1 declined, 2 bad input, 3 no quorum, 130 Ctrl-C. The help texts of `doctor` and `run` list
   their own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING

import redlock
from redlock import _validation
from redlock._escaping import escape
from redlock._masking import mask
from redlock.admin import doctor, force_release
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.admin.diagnostics import worst
from redlock.cli import run as programs
from redlock.cli import simulate
from redlock.cli.options import Parser, broker_from, database_from, given, open_streams, settings_from
from redlock.cli.status_table import table
from redlock.errors import ConfigurationError, QuorumUnavailable, RedlockError
from redlock.settings import read

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

DECLINED, BAD_INPUT, NO_QUORUM, INTERRUPTED = 1, 2, 3, 130


_CLEAR = "\x1b[2J\x1b[H"


def main(arguments: Sequence[str] | None = None, app: object = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        arguments: The command line; None means the arguments of this process.
        app: The Celery app with the lock's settings, from `celery -A app redlock`.
    """
    open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A task chooses names of resources, and a terminal may lack their characters.
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The words after the first -- of `run` are the command of another program, and no options of `redlock`.
    end = words.index("--") if words[:1] == ["run"] and "--" in words else len(words)
    parser = _parser()
    options = parser.parse_args(words[:end], argparse.Namespace(command=words[end + 1 :]))
    # Some versions of argparse take the value -- for no value, and make an empty list of it.
    if [] in [value for name, value in vars(options).items() if name != "command"]:
        parser.error("-- is no value of an option")
    options.app = options.app or app
    # The doctor reports settings that work and are unwise, such as an even number of nodes.
    warnings.simplefilter("ignore", UserWarning)
    try:
        status: int = options.run(options)
    except QuorumUnavailable as error:
        print(escape(f"redlock: {error}"), file=sys.stderr)
        return NO_QUORUM
    except (RedlockError, OSError) as error:
        print(escape(f"redlock: {error}"), file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="redlock", description="A quorum lock on independent Redis nodes.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {redlock.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser(
        "simulate",
        help="let several clients compete for one lock",
        description="Each client is a process that starts after its delay, tries to acquire the lock, holds the lock, "
        "and releases it. The environment can set options too: REDLOCK_NODES, REDLOCK_TTL, ..., SIMULATE_DELAYS, "
        "SIMULATE_HOLD, ...",
    )
    _lock_options(command)
    command.add_argument("--delays", metavar="S,S,...", help="each client's start, in seconds (default: 0,1,3)")
    command.add_argument("--hold", metavar="S", help="seconds that a client holds the lock (default: 2)")
    command.add_argument("--retries", metavar="N", help="how often a client tries again (default: 3)")
    command.add_argument("--retry-delay", metavar="S", help="seconds between tries, halved to doubled (default: 0.2)")
    command.add_argument("--resource", metavar="NAME", help="the name of the lock (default: shared-resource)")
    command.add_argument("--log-file", metavar="FILE", help="the file for all events (default: logger.log)")
    command.add_argument("--embedded", action="store_true", help="start five nodes for this run")
    command.set_defaults(run=_simulate)
    command = commands.add_parser(
        "init",
        help="let brand-new nodes vote at once",
        description="Brand-new nodes abstain until max_ttl has passed, because they may have forgotten locks. If you "
        "know that these nodes can't have forgotten a lock, this command makes them vote at once.",
    )
    _lock_options(command)
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(run=_init)
    _diagnostic_commands(commands)
    _lock_commands(commands)
    return parser


def _diagnostic_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "status",
        help="show the nodes, the locks and their holders",
        description="Reads the state of all nodes, and changes nothing. VOTES has a sign for each node, in the order "
        "of the list of nodes: + reports this holder, - does not, ? did not answer. Exit status: 0 a quorum votes, "
        "3 no quorum votes.",
    )
    _node_options(command)
    command.add_argument("--watch", action="store_true", help="repeat every second, until Ctrl-C")
    command.add_argument("--json", action="store_true", help="print JSON; with --watch, a line each time")
    command.add_argument("--most", metavar="N", type=int, default=200, help="number of shown locks (default: 200)")
    command.set_defaults(run=_status)
    command = commands.add_parser(
        "doctor",
        help="find problems of nodes, settings and broker, and name a fix for each",
        description="Exit status: 0 fine, 1 warnings, 2 unsafe or bad input, 3 no quorum votes. Put addresses with a "
        "password into the environment: the list of processes shows the command line to other users.",
    )
    _node_options(command)
    command.add_argument("--ttl", metavar="S", help="seconds that a lease lasts (default: 5)")
    command.add_argument(
        "--broker", metavar="URL", help="Celery's broker (default: the app's, else $CELERY_BROKER_URL)"
    )
    command.add_argument("--store", metavar="URL", help="the Redis with the data behind the fenced store")
    command.add_argument(
        "--database",
        metavar="URL",
        nargs="?",
        const="",
        help="the database with the tables of the fence, as SQLAlchemy writes it (without URL: $DATABASE_URL)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_doctor)


def _lock_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "run",
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
    _lock_options(command)
    command.add_argument("--wait", metavar="S", type=float, help="seconds to wait; 0 tries once (default: for ever)")
    command.add_argument("--pass-credentials", action="store_true", help="pass the nodes' passwords to the program")
    command.add_argument("--grace", metavar="S", type=float, help="seconds to SIGKILL (default: a third of the ttl)")
    command.add_argument("--log-file", metavar="FILE", help="the file for the lock's events (default: none)")
    command.set_defaults(run=_run)
    command = commands.add_parser(
        "release",
        help="take a lock away from its holder",
        description="Raises the fence first, then deletes the lock and wakes a waiter. The old holder finds out at its "
        "next renewal; until then the old and the next holder both believe that they hold the lock.",
    )
    command.add_argument("resource", metavar="RESOURCE", help="the name of the lock")
    _nodes_option(command)
    command.add_argument("--force", action="store_true", help="required: without force only the holder can release")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(run=_release)


def _nodes_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("-A", "--app", metavar="APP", help="take the lock's settings from this Celery app")
    command.add_argument("--nodes", metavar="URL,URL,...", help="the lock nodes (default: 127.0.0.1:63791 to 63795)")


def _node_options(command: argparse.ArgumentParser) -> None:
    _nodes_option(command)
    command.add_argument("--timeout", metavar="S", type=float, default=1.0, help="seconds for an answer (default: 1)")


def _lock_options(command: argparse.ArgumentParser) -> None:
    _nodes_option(command)
    command.add_argument("--ttl", metavar="S", help="seconds that a lease lasts (default: 5)")


def _simulate(options: argparse.Namespace) -> int:
    lock = settings_from(options, "nodes", "ttl")
    names = ("delays", "hold", "retries", "retry_delay", "resource", "log_file")
    plan = read(simulate.Plan, os.environ, "SIMULATE_", options=given(options, *names))
    return simulate.run(plan, lock, embedded=options.embedded)


def _init(options: argparse.Namespace) -> int:
    lock = settings_from(options, "nodes", "ttl")
    nodes = lock.addresses
    print(
        f"This lets {len(nodes)} nodes vote at once. The risk: if one of them held a lock less than "
        f"{lock.max_ttl:g} s ago and has forgotten it, two clients can now hold that lock."
    )
    if not _agreed(options):
        return DECLINED
    declare_nodes(nodes, lock.prefix)
    print("Done: the nodes vote from now on.")
    return 0


def _status(options: argparse.Namespace) -> int:
    lock = settings_from(options, "nodes")
    while True:
        status = cluster_status(
            lock.addresses, prefix=lock.prefix, max_ttl=lock.max_ttl, timeout=options.timeout, resources=options.most
        )
        if options.json:
            print(json.dumps(status.as_dict(), indent=None if options.watch else 2), flush=True)
        else:
            is_terminal = sys.stdout.isatty()
            clear = _CLEAR if options.watch and is_terminal else ""
            print(clear + table(status, color=is_terminal and not os.environ.get("NO_COLOR")), flush=True)
        if not options.watch:
            return 0 if status.voting >= status.quorum else NO_QUORUM
        time.sleep(1.0)


def _doctor(options: argparse.Namespace) -> int:
    lock = settings_from(options, "nodes", "ttl")
    broker, database = broker_from(options), database_from(options)
    findings = doctor.check(
        lock, broker=broker, store=options.store or "", database=database, timeout=options.timeout, app=options.app
    )
    level = worst(findings)
    if options.json:
        report = {"level": level.name.lower(), "findings": [finding.as_dict() for finding in findings]}
        print(json.dumps(report, indent=2))
        return int(level)
    for finding in findings:
        print(escape(f"{finding.level.name.replace('_', ' '):<9}  {finding}"))
    return int(level)


def _run(options: argparse.Namespace) -> int:
    if not options.command:
        raise ConfigurationError("run needs a program: redlock run RESOURCE -- COMMAND ...")
    lock = settings_from(options, "nodes", "ttl")
    wait, grace = _validation.acquire_timeout(options.wait), lock.ttl / 3 if options.grace is None else options.grace
    if _validation.number("grace", grace, zero=True) > lock.ttl / 2:
        raise ConfigurationError(f"grace is {grace:g} s; it must be at most half of the ttl, {lock.ttl / 2:g} s")
    if options.log_file is not None:
        try:
            programs.log_to(options.log_file)
        except OSError as error:
            programs.say(f"log file {options.log_file!r}: {(error.strerror or str(error)).lower()}")
            return programs.CANNOT_CREATE
    with lock.client() as client:
        environment = programs.environment(lock, credentials=options.pass_credentials)
        return programs.run(client, options.resource, options.command, environment, wait=wait, grace=grace)


def _release(options: argparse.Namespace) -> int:
    if not options.force:
        raise ConfigurationError("only the holder can release a lock; --force takes the lock away from any holder")
    lock = settings_from(options, "nodes")
    with lock.client() as client:
        lease = force_release.target(client, options.resource)
        if lease is None:
            print(mask(escape(f"No client holds {options.resource!r}; nothing was changed.")))
            return 0
        print(escape(lease.describe()))
        print(force_release.RISK)
        if not options.yes and not sys.stdin.isatty():
            raise ConfigurationError("there is no terminal for the question; --yes answers the question beforehand")
        if not _agreed(options):
            return DECLINED
        print(f"Done: {force_release.take_away(client, lease)} of {lease.nodes} nodes have confirmed the release.")
    return 0


def _agreed(options: argparse.Namespace) -> bool:
    """Whether the user agrees to the risk that was printed before."""
    if options.yes or input("Go on? [y/N] ").strip().lower() in {"y", "yes"}:
        return True
    print("Nothing was changed.")
    return False
