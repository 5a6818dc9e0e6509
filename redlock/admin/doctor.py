"""Finds problems of nodes, settings, broker, store and database, and names a fix for each.

Invariants:
1. Only `check` sends requests. All other functions work on the answers, so their tests need no server.
2. Unsafe is a state that can break a promise of the lock, or a state that stops all clients until an operator acts.
   A node without a vote is a warning while a quorum is left.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

from redlock import _validation
from redlock._masking import mask
from redlock._transport import node_info
from redlock._transport.node import OUT_OF_FILES
from redlock.admin import broker_address, broker_check, database_check, node_reports, quorum_queues, visibility_timeout
from redlock.admin.cluster_status import cluster_status, probe_node
from redlock.admin.diagnostics import Finding, Level, sort, warning
from redlock.admin.visibility_timeout import Locked
from redlock.errors import ConfigurationError
from redlock.settings import EXPOSED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redlock.admin.cluster_status import ClusterStatus
    from redlock.admin.node_state import NodeState
    from redlock.settings import Settings

_FULL = 0.8
_LONG_SECONDS = 60.0


@_validation.private
def check(
    settings: Settings,
    *,
    broker: str = "",
    store: str = "",
    database: str = "",
    timeout: float = 1.0,
    app: Any = None,
) -> list[Finding]:
    """Check the nodes, and the given broker, store and database. The findings are sorted, the worst first.

    Args:
        settings: The lock's settings.
        broker: Address of Celery's broker. Redis and AMQP are checked; for another transport there is a warning.
        store: Address of the Redis that owns the data behind the fenced store.
        database: SQLAlchemy address of the database with the tables of the fence.
        timeout: Seconds to wait for each answer.
        app: The Celery app. Its queues are checked, and its tasks are compared with the broker's visibility timeout;
            without an app only the TTL is compared.

    Raises:
        ConfigurationError: The address of a node, the store or the database is invalid, or a setting that the
            requests need, or the tasks of the app can't be imported.
    """
    status = cluster_status(
        settings.addresses,
        prefix=settings.prefix,
        max_ttl=settings.max_ttl,
        timeout=timeout,
        resources=0,
    )
    findings = examine(status, settings)
    conf = {"broker_url": broker} if app is None else app.conf
    brokers = _brokers(broker, conf)
    if app is not None and not brokers:
        what = "it was not checked: the app has no broker_url, and Celery takes amqp://guest@localhost"
        findings.append(warning("not-checked", "broker", what, "set broker_url, or give --broker"))
    for url in brokers:
        findings += _broker(url, app, conf, status, timeout)
    tasks = [Locked("the settings", 0.0, settings.ttl, None)]
    if app is not None:
        _validation.own_code("the tasks of the Celery app can't be imported", app.loader.import_default_modules)
        tasks = visibility_timeout.locked_tasks(app, settings.ttl, app.conf.task_time_limit)
        queues = functools.partial(quorum_queues.findings, app, tasks)
        findings += _validation.own_code("the queues of the Celery app can't be read", queues)
    findings += visibility_timeout.findings(conf, tasks)
    if store:
        findings += examine_server("store", _store(store, timeout), status)
    if database:
        findings += database_check.check(database, ttl=settings.ttl, timeout=timeout)
    return sort(findings)


def _brokers(broker: str, conf: Mapping[str, Any]) -> list[str]:
    """The addresses of the broker, and those of the configuration for reading and for writing."""
    # `get` leaves out Celery's default, which is broker_url. `visibility_timeout` reports values of a wrong type.
    found = [broker]
    for name in ("broker_read_url", "broker_write_url"):
        value = visibility_timeout.address(conf, name)
        found += value if isinstance(value, list | tuple) else [value]
    texts = [text for text in found if isinstance(text, str)]
    return list(dict.fromkeys(url for text in texts for url in broker_address.urls(text)))


def _broker(url: str, app: Any, conf: Mapping[str, Any], status: ClusterStatus, timeout: float) -> list[Finding]:
    redis_url = broker_address.redis_url(url, conf)
    if not redis_url:
        return broker_check.check(url, timeout, app)
    try:
        return examine_server("broker", probe_node(redis_url, timeout=timeout), status)
    except ConfigurationError as error:
        return [warning("address", "broker", f"the address of the broker: {error}")]


def _store(url: str, timeout: float) -> NodeState:
    try:
        return probe_node(url, timeout=timeout)
    except ConfigurationError as error:
        problem = f"the address of the store: {error}"
    raise ConfigurationError(problem)


def examine(status: ClusterStatus, settings: Settings) -> list[Finding]:
    """Return the findings about nodes and settings, the worst first."""
    findings = [*_settings(settings), *_number(status)]
    for node in status.nodes:
        findings += _node(node, status)
    findings += [*_duplicates(status), *_quorum(status), *node_reports.kept(status.nodes)]
    findings += node_reports.not_reported(status.nodes)
    return sort(findings)


def examine_server(role: str, node: NodeState, status: ClusterStatus) -> list[Finding]:
    """Return the findings about the Redis of Celery's broker or of the fenced store.

    Args:
        role: Either "broker" or "store". No later task repairs data that a store has lost.
        node: The state of this server; see `cluster_status.probe_node`.
        status: The state of the lock nodes.
    """
    where, owns_data = f"{role} {node.label}", role == "store"
    kept = "updates" if owns_data else "tasks"
    lax = node.max_memory and node.eviction not in {"", "noeviction"}
    # For a setting that the server does not report there is another finding.
    no_aof = node.aof is False
    forgets = no_aof or node.fsync in {"everysec", "no"} if owns_data else no_aof and node.rdb == ""
    shared = next((lock.label for lock in status.nodes if node.run_id and lock.run_id == node.run_id), "")
    apart = "give it a server of its own, or one restart, or one full memory, hits both"
    drops = f"maxmemory-policy is {node.eviction}: a server with a full memory drops {kept}"
    loses = f"the disk does not have everything: a crash loses {kept}"
    keep = f"set appendonly yes{' and appendfsync always' if owns_data else ''}"
    grave = Level.UNSAFE if owns_data else Level.WARNING
    cases = (
        (not node.reachable, Level.WARNING, "unreachable", node.reason, _reach(node)),
        (node.role == "slave", Level.WARNING, "replica", "it is a replica, and refuses writes", "name its master"),
        (bool(shared), Level.WARNING, "shared-server", f"it is lock node {shared} too", apart),
        (bool(lax), grave, "eviction", drops, "CONFIG SET maxmemory-policy noeviction, and in its file"),
        (node.reachable and forgets, Level.WARNING, "persistence", loses, keep),
    )
    found = [Finding(level, code, where, state, fix) for holds, level, code, state, fix in cases if holds]
    found += node_reports.not_reported([node], broker=where)
    fine = f"{node_info.product(node.version)} answers and keeps its {kept}"
    return found or [Finding(Level.FINE, role, where, fine)]


def _settings(settings: Settings) -> Iterator[Finding]:
    origins = settings.origins
    shown = (
        f"{name} {'-' if value == '' else value} ({origins.get(name, 'default')})"
        for name, value in settings.shown().items()
    )
    yield Finding(Level.FINE, "settings", "settings", "; ".join(shown))
    if settings.exposed:
        yield warning("password-in-conf", "settings", EXPOSED)
    ttl, max_ttl, node_timeout = settings.ttl, settings.max_ttl, settings.node_timeout
    try:
        timeout_ms = _validation.node_timeout_ms(node_timeout)
        max_ttl_ms = int(_validation.number("max_ttl", max_ttl) * 1000)
        _validation.ttl_ms(ttl, max_ttl_ms=max_ttl_ms, node_timeout_ms=timeout_ms)
    except ConfigurationError as error:
        yield Finding(Level.UNSAFE, "ttl", "settings", str(error))
        return
    if ttl < 10 * node_timeout:
        what = (
            f"ttl is {ttl:g} s, less than ten node timeouts of {node_timeout:g} s: a renewal that meets silent nodes "
            "has no time for a second try"
        )
        yield warning("ttl-short", "settings", what, f"raise ttl to {10 * node_timeout:g} s")
    if max_ttl > _LONG_SECONDS:
        what = f"max_ttl is {max_ttl:g} s: for so long a node that was restarted casts no vote"
        fix = "leases are renewed, so ttl and max_ttl can be short: 5 s and 10 s do"
        yield warning("max-ttl-long", "settings", what, fix)


def _number(status: ClusterStatus) -> Iterator[Finding]:
    what = _validation.tolerance(len(status.nodes))
    if what is not None:
        yield warning("number", "nodes", what)


def _node(node: NodeState, status: ClusterStatus) -> Iterator[Finding]:
    """The findings about one node alone."""
    finding = _without_vote(node, status)
    if finding is not None:
        yield finding
    if not node.reachable:
        return
    yield from _eviction(node)
    note = node.clock_note(status.clock_limit)
    if note:
        # A step can end leases on a running node, and its quarantine: the preconditions 2 and 4 of docs/safety.md.
        fix = "stop the node, set its clock, start it; it abstains for max_ttl. Or set the clock of this machine"
        yield warning("clock", node.label, note, fix)


def _reach(node: NodeState) -> str:
    return "raise its limit, ulimit -n" if node.reason == OUT_OF_FILES else "start it, or fix its address"


def _without_vote(node: NodeState, status: ClusterStatus) -> Finding | None:
    """The first reason for which a node has no vote; None for a node that votes."""
    fingerprint = status.fingerprint
    # As in `vote_checks.is_barred`: a minority of nodes with another fingerprint has no vote, and stops no client.
    agreed = 2 * sum(other.fingerprint == fingerprint for other in status.nodes) > sum(
        bool(other.fingerprint) for other in status.nodes
    )
    independent = "give each lock node a server of its own: no replica, no cluster mode, no Sentinel"
    locked_out = not node.reachable and ("password" in node.reason or "user" in node.reason)
    agree = f"this side has {fingerprint}; all clients need the same; to change it stop them, restart the nodes"
    if agreed:
        agree = (
            f"more nodes work under {fingerprint}; stop the clients that have other settings, then restart this node"
        )
    old = f"{node_info.product(node.version)}; lock nodes need 6.2 or later"
    wait = "wait: the node votes by itself when this time is over"
    unsafe, warns = Level.UNSAFE, Level.WARNING
    cases = (
        (locked_out, warns, "access", node.reason, "fix the address of this node"),
        (not node.reachable, warns, "unreachable", node.reason, _reach(node)),
        (node_info.is_too_old(node.version), unsafe, "version", old, "upgrade it"),
        (node.mode not in {"", "standalone"}, unsafe, "cluster-mode", f"in {node.mode} mode", independent),
        (node.role not in {"", "master"}, unsafe, "replica", node.reason.partition(";")[0], independent),
        (bool(node.missing), warns, "permissions", node.reason, "grant this user the missing permissions"),
        (
            bool(node.fingerprint) and node.fingerprint != fingerprint,
            warns if agreed else unsafe,
            "fingerprint",
            node.reason,
            agree,
        ),
        (node.reason.startswith("new, "), warns, "quarantine", node.reason, wait),
        (bool(node.reason), warns, "no-vote", node.reason, "fix the server"),
    )
    for holds, level, code, what, fix in cases:
        if holds:
            return Finding(level, code, node.label, what, fix)
    return None


def _eviction(node: NodeState) -> Iterator[Finding]:
    if node.eviction not in {"", "noeviction"}:
        level = Level.UNSAFE if node.max_memory else Level.WARNING
        what = f"maxmemory-policy is {node.eviction}: it may drop a lock that is held"
        if not node.max_memory:
            what += " as soon as maxmemory is set"
        yield Finding(level, "eviction", node.label, what, "CONFIG SET maxmemory-policy noeviction, and in its file")
    elif node.max_memory and node.used_memory > _FULL * node.max_memory:
        share = node.used_memory / node.max_memory
        what = f"{share:.0%} of its maxmemory is in use; a full node casts no vote"
        yield warning("memory", node.label, what, "raise maxmemory, or keep other data elsewhere")


def _duplicates(status: ClusterStatus) -> Iterator[Finding]:
    nodes = status.nodes
    counts = Counter(node.run_id for node in nodes if node.run_id)
    level = Level.UNSAFE if len(nodes) - sum(counts.values()) + len(counts) < status.quorum else Level.WARNING
    for run_id, count in counts.items():
        if count > 1:
            labels = ", ".join(node.label for node in nodes if node.run_id == run_id)
            what = "they are the same server, which has one vote"
            yield Finding(level, "duplicate-server", labels, what, "give each lock node a server of its own")


def _quorum(status: ClusterStatus) -> Iterator[Finding]:
    total, voting = len(status.nodes), status.voting
    if voting < status.quorum:
        # Each alone: a quote in the reason of one node would hide the reasons of the next.
        reasons = "; ".join(mask(f"{node.label}: {node.reason}") for node in status.nodes if not node.votes)
        what = f"{voting} of {total} vote, {status.quorum} are needed: no client can acquire a lock ({reasons})"
        yield Finding(Level.NO_QUORUM, "no-quorum", "nodes", what, "bring back enough of these")
        return
    spare = voting - status.quorum
    what = f"{voting} of {total} vote, {status.quorum} are needed: {spare} more may fail"
    yield Finding(Level.FINE, "quorum", "nodes", what)
