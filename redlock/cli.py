"""The command line: `redlock` and `python -m redlock`.

Rules: an error of ours is one line on stderr and an exit status, never a traceback; options come before the
environment, the environment before the defaults. Exit status: 0 done, 1 declined, 2 bad input, 3 no quorum, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from redlock import checks, simulate
from redlock.admission import declare
from redlock.errors import QuorumUnavailable, RedlockError
from redlock.settings import Settings, read

if TYPE_CHECKING:
    from collections.abc import Sequence

DECLINED, BAD_INPUT, NO_QUORUM, INTERRUPTED = 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except QuorumUnavailable as error:
        print(f"redlock: {error}", file=sys.stderr)
        return NO_QUORUM
    except (RedlockError, OSError) as error:
        print(f"redlock: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="redlock", description="A quorum lock on independent Redis nodes.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser(
        "simulate",
        help="let several clients compete for one lock",
        description="Each client is a process that starts after its delay, tries to take the lock, holds it, and "
        "releases it. Options can also be set as REDLOCK_NODES, REDLOCK_TTL, ..., SIMULATE_DELAYS, SIMULATE_HOLD, ...",
    )
    _lock_options(command)
    command.add_argument("--delays", metavar="S,S,...", help="each client's start, in seconds (default: 0,1,3)")
    command.add_argument("--hold", metavar="S", help="seconds that a client holds the lock (default: 2)")
    command.add_argument("--retries", metavar="N", help="how often a client tries again (default: 3)")
    command.add_argument("--retry-delay", metavar="S", help="seconds between tries, halved to doubled (default: 0.2)")
    command.add_argument("--resource", metavar="NAME", help="what they compete for (default: shared-resource)")
    command.add_argument("--log-file", metavar="FILE", help="where all events go (default: logger.log)")
    command.add_argument("--embedded", action="store_true", help="bring its own five nodes")
    command.set_defaults(run=_simulate)
    command = commands.add_parser(
        "init",
        help="let brand-new nodes vote at once",
        description="Brand-new nodes abstain until they have been known for max_ttl, because nobody can know which "
        "locks they have forgotten. If you know that they can have forgotten none, this makes them vote at once.",
    )
    _lock_options(command)
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(run=_init)
    return parser


def _lock_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--nodes", metavar="URL,URL,...", help="the lock nodes (default: 127.0.0.1:63791 to 63795)")
    command.add_argument("--ttl", metavar="S", help="seconds that a lease lasts (default: 5)")


def _simulate(options: argparse.Namespace) -> int:
    lock = read(Settings, {**os.environ, **_given(options, "REDLOCK_", "nodes", "ttl")}, "REDLOCK_")
    names = ("delays", "hold", "retries", "retry_delay", "resource", "log_file")
    plan = read(simulate.Plan, {**os.environ, **_given(options, "SIMULATE_", *names)}, "SIMULATE_")
    return simulate.run(plan, lock, embedded=options.embedded)


def _init(options: argparse.Namespace) -> int:
    lock = read(Settings, {**os.environ, **_given(options, "REDLOCK_", "nodes", "ttl")}, "REDLOCK_")
    nodes = checks.node_list(lock.nodes)
    print(
        f"This lets {len(nodes)} nodes vote at once. The risk: if one of them held a lock less than "
        f"{lock.max_ttl:g} s ago and has forgotten it, two clients can now hold that lock."
    )
    if not options.yes and input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        print("Nothing was changed.")
        return DECLINED
    declare(nodes)
    print("Done: they vote from now on.")
    return 0


def _given(options: argparse.Namespace, prefix: str, *names: str) -> dict[str, str]:
    """What was given on the command line, as the environment would say it."""
    values = {name: getattr(options, name) for name in names}
    return {prefix + name.upper(): value for name, value in values.items() if value is not None}
