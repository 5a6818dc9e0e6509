"""Error reports can have the local variables of each frame: these hold no password after a wrong setting or call."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from celery import Celery

from redlock import ConfigurationError, Redlock
from redlock.admin import doctor
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status, probe_node
from redlock.asyncio import Redlock as AsyncRedlock
from redlock.celery import client_for
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.settings import Settings
from workers.settings import from_environment

CANARY = "canary"
ADDRESS = f"redis://:{CANARY}@h:1"
WRONG_CALLS: dict[str, Callable[[], object]] = {
    "client": lambda: Redlock(ADDRESS, ttl=0),
    "asyncio client": lambda: AsyncRedlock(ADDRESS, ttl=0),
    "status": lambda: cluster_status(ADDRESS, timeout=0),
    "probe": lambda: probe_node(ADDRESS, timeout=0),
    "doctor": lambda: doctor.check(Settings(nodes="h"), broker=ADDRESS),
    "store": lambda: FencedStore(ADDRESS, prefix="\n"),
    "asyncio store": lambda: AsyncFencedStore(ADDRESS, prefix="\n"),
    "no text": lambda: Redlock(f"redis://:{CANARY}\udcff@h:1"),
    "asyncio no text": lambda: AsyncRedlock(f"redis://:{CANARY}\udcff@h:1"),
    "status no text": lambda: cluster_status(f"redis://:{CANARY}\udcff@h:1"),
    "init": lambda: declare_nodes(["h", ADDRESS]),
}


def _spilled(call: Callable[[], object]) -> list[str]:
    """The names of local variables with the secret, in all frames but those of the test."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb) if frame.f_code.co_filename != __file__]
    return [name for frame in frames for name, value in frame.f_locals.items() if CANARY in repr(value)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"TTLL": "1"},
        {"TTL": "x"},
        {"TTL": "0"},
        {"EVENTS": "x"},
        {"PASSWORD_FILE": "x"},
        {"NODES": "h"},
        {"USERNAME": "\udcff"},
    ],
    ids=lambda wrong: "=".join(*wrong.items()),
)
def test_an_error_report_shows_no_password_of_settings(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]) -> None:
    monkeypatch.setenv("REDLOCK_PASSWORD", CANARY)
    monkeypatch.setenv("COUNTER_FLOWER_AUTH", f"ann:{CANARY}")
    for name, value in wrong.items():
        monkeypatch.setenv(f"REDLOCK_{name}", value)
    assert not _spilled(lambda: client_for(Celery(set_as_current=False)))
    assert not _spilled(from_environment)


def test_an_error_report_shows_no_password_of_celerys_conf() -> None:
    app = Celery(set_as_current=False)
    app.conf.redlock_password = CANARY
    client_for(app)
    app.conf.redlock_password = f"{CANARY}\udcff"
    assert not _spilled(lambda: client_for(app))
    app.conf.redlock_password = CANARY
    app.conf.redlock_ttll = 1
    assert not _spilled(lambda: client_for(app))


@pytest.mark.parametrize("call", WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_an_error_report_shows_no_password_of_a_call(call: Callable[[], object]) -> None:
    assert not _spilled(call)
