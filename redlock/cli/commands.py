"""The commands: from parsed options to an exit status."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from redlock import _validation
from redlock._escaping import escape
from redlock._masking import mask
from redlock.admin import doctor as diagnosis
from redlock.admin import force_release
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.admin.diagnostics import worst
from redlock.cli import run as programs
from redlock.cli import simulate as simulation
from redlock.cli.options import broker_from, database_from, given, settings_from, text_of
from redlock.cli.output import log_to, reason_of, say, show
from redlock.cli.status_table import table
from redlock.errors import ConfigurationError, LockContended, NotHeld
from redlock.settings import read

if TYPE_CHECKING:
    import argparse

DECLINED, BAD_INPUT, NO_QUORUM, UNCHANGED, INTERRUPTED = 1, 2, 3, 4, 130

_CLEAR = "\x1b[2J\x1b[H"


def simulate(options: argparse.Namespace) -> int:
    """Run `redlock simulate`, and return its exit status."""
    lock = settings_from(options)
    plan = read(simulation.Plan, os.environ, "SIMULATE_", options=given(options, simulation.Plan))
    return simulation.run(plan, lock, embedded=options.embedded)


def init(options: argparse.Namespace) -> int:
    """Run `redlock init`, and return its exit status."""
    lock = settings_from(options)
    # The nodes would vote for no client if these settings are invalid.
    lock.client().close()
    nodes = lock.addresses
    show(
        f"This lets {len(nodes)} nodes vote at once. The risk: if one of them held a lock less than "
        f"{lock.max_ttl:g} s ago and has forgotten it, two clients can now hold that lock."
    )
    if not _agreed(options):
        return DECLINED
    declare_nodes(nodes, lock.prefix)
    show("Done: the nodes vote from now on.")
    return 0


def status(options: argparse.Namespace) -> int:
    """Run `redlock status`, and return its exit status."""
    lock = settings_from(options)
    timeout, most = _validation.number("--timeout", options.timeout), _validation.count("--most", options.most, least=1)
    while True:
        found = cluster_status(
            lock.addresses, prefix=lock.prefix, max_ttl=lock.max_ttl, timeout=timeout, resources=most
        )
        if options.json:
            text = json.dumps(found.as_dict(), indent=None if options.watch else 2)
        else:
            is_terminal = sys.stdout.isatty()
            clear = _CLEAR if options.watch and is_terminal else ""
            text = clear + table(found, color=is_terminal and not os.environ.get("NO_COLOR"))
        if not show(text) or not options.watch:
            return 0 if found.voting >= found.quorum else NO_QUORUM
        time.sleep(1.0)


def doctor(options: argparse.Namespace) -> int:
    """Run `redlock doctor`, and return its exit status."""
    lock = settings_from(options)
    findings = diagnosis.check(
        lock,
        broker=broker_from(options),
        store=text_of(options, "store"),
        database=database_from(options),
        timeout=_validation.number("--timeout", options.timeout),
        app=options.app,
    )
    level = worst(findings)
    if options.json:
        report = {"level": level.name.lower(), "findings": [finding.as_dict() for finding in findings]}
        show(json.dumps(report, indent=2))
    else:
        lines = (f"{finding.level.name.replace('_', ' '):<9}  {finding}" for finding in findings)
        show("\n".join(map(escape, lines)))
    return int(level)


def run(options: argparse.Namespace) -> int:
    """Run `redlock run`, and return its exit status."""
    if not options.command:
        raise ConfigurationError("run needs a program: redlock run RESOURCE -- COMMAND ...")
    lock = settings_from(options)
    wait = _validation.acquire_timeout(options.wait, "--wait")
    # Refuses a wrong ttl, before `--grace` is made from the ttl.
    client = lock.client()
    grace = lock.ttl / 3 if options.grace is None else options.grace
    if _validation.number("--grace", grace, zero=True) > lock.ttl / 2:
        raise ConfigurationError(f"--grace is {grace:g} s; it must be at most half of the ttl, {lock.ttl / 2:g} s")
    if options.log_file is not None:
        try:
            log_to(options.log_file)
        except OSError as error:
            say(f"log file {options.log_file!r}: {reason_of(error)}")
            return programs.CANNOT_CREATE
    with client:
        environment = programs.environment(lock, credentials=options.pass_credentials)
        return programs.run(client, options.resource, options.command, environment, wait=wait, grace=grace)


def release(options: argparse.Namespace) -> int:
    """Run `redlock release`, and return its exit status."""
    if not options.force:
        raise ConfigurationError("only the holder can release a lock; --force takes the lock away from any holder")
    lock = settings_from(options)
    with lock.client() as client:
        lease = force_release.target(client, options.resource)
        if lease is None:
            show(mask(escape(f"No client holds {options.resource!r}; nothing was changed.")))
            return 0
        show(f"{escape(lease.describe())}\n{force_release.RISK}")
        if not _agreed(options):
            return DECLINED
        try:
            count = force_release.take_away(client, lease)
        except LockContended as error:
            say(f"{error}; nothing was changed")
            return UNCHANGED
        except NotHeld as error:
            say(str(error))
            return UNCHANGED
        show(f"Done: {count} of {lease.nodes} nodes have confirmed the release.")
    return 0


def _agreed(options: argparse.Namespace) -> bool:
    """Whether the user agrees to the risk that was printed before."""
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigurationError("there is no terminal for the question; --yes answers the question beforehand")
    try:
        answer = input("Go on? [y/N] ")
    except UnicodeDecodeError:
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return True
    show("Nothing was changed.")
    return False
