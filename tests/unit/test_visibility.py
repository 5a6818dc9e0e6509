"""`redlock.admin.visibility_timeout`: the broker's visibility timeout, and tasks and leases that exceed it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from redlock.admin import visibility_timeout
from redlock.admin.visibility_timeout import Locked, findings, locked_tasks, timeout_of
from redlock.celery import locked, worker_start
from tests.unit.locked_tasks import called_class


def body() -> None:
    """The body of a task."""


QUEUES = "predefined_queues"
REDIS, SENTINEL, AMQP = "redis://h:6379/0", "sentinel://a:26379;sentinel://b:26379", "amqp://h//"


@pytest.mark.parametrize(
    ("conf", "seconds"),
    [
        ({"broker_url": REDIS}, 3_600),
        ({"broker_url": "sqs://"}, 1_800),
        ({"broker_url": REDIS, "broker_transport_options": {"visibility_timeout": 5}}, 5),
        ({"broker_url": REDIS, "broker_transport_options": {"visibility_timeout": "7.5"}}, 7.5),
        ({"broker_url": f"{REDIS}?visibility_timeout=12"}, 12),
        ({"broker_url": [REDIS, f"{REDIS}?visibility_timeout=12"]}, 12),
        ({"broker_url": REDIS, "broker_read_url": f"{REDIS}?visibility_timeout=4"}, 4),
        ({"broker_url": f"{SENTINEL}?visibility_timeout=9"}, 9),
        ({"broker_url": SENTINEL, "broker_transport_options": {"visibility_timeout": 8, "master_name": "m"}}, 8),
        ({"broker_url": f"{REDIS}?visibility_timeout=6", "broker_transport_options": {"visibility_timeout": 60}}, 6),
        (
            {
                "broker_url": "sqs://",
                "broker_transport_options": {"predefined_queues": {"a": {"visibility_timeout": 30}, "b": {}}},
            },
            30,
        ),
        ({"broker_url": "redis+socket:///run/redis.sock"}, 3_600),
        ({"broker_url": AMQP, "broker_transport_options": {"visibility_timeout": 5}}, None),
        ({"broker_url": "memory://"}, None),
        ({"broker_url": "redis://:secret@[::1?visibility_timeout=12"}, 12),
        ({"broker_url": REDIS, "broker_transport_options": {"visibility_timeout": "soon"}}, 3_600),
        ({}, None),
    ],
)
def test_the_shortest_timeout_counts_wherever_it_is_said(conf: dict[str, Any], seconds: float | None) -> None:
    assert timeout_of(conf) == seconds


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Locked("pay", 30.0, 5.0, None), "the wait of pay is 30 s"),
        (Locked("pay", 1.0, 25.0, None), "the ttl of pay is 25 s"),
        (Locked("pay", 1.0, 5.0, 20.0), "the time limit of pay is 20 s"),
    ],
)
def test_a_timeout_shorter_than_a_task_may_take_is_warned_of(task: Locked, said: str) -> None:
    conf = {"broker_url": REDIS, "broker_transport_options": {"visibility_timeout": 20}}
    (finding,) = findings(conf, [Locked("short", 0.0, 5.0, 10.0), task])
    assert said in finding.what
    assert "its visibility timeout is 20 s" in finding.what
    assert "visibility_timeout" in finding.fix


def test_a_timeout_that_is_long_enough_is_no_finding() -> None:
    assert findings({"broker_url": REDIS}, [Locked("pay", 30.0, 5.0, 3_599.0)]) == []
    assert findings({"broker_url": AMQP}, [Locked("pay", 30.0, 5.0, 10_000.0)]) == []
    assert findings({"broker_url": REDIS}, []) == []


@pytest.mark.parametrize(
    ("conf", "what"),
    [
        ({"broker_read_url": 5}, "broker_read_url is int"),
        ({"broker_write_url": [REDIS, {"redis://u:canary@h": 1}]}, "broker_write_url holds dict"),
        ({"broker_transport_options": "visibility_timeout=3"}, "broker_transport_options is str"),
        ({"broker_transport_options": {QUEUES: ["a"]}}, f"broker_transport_options['{QUEUES}'] is list"),
        (
            {"broker_transport_options": {QUEUES: {"q": "redis://u:canary@h"}}},
            f"broker_transport_options['{QUEUES}']['q'] is str",
        ),
    ],
)
def test_a_setting_of_a_wrong_type_is_a_finding(conf: dict[str, Any], what: str) -> None:
    """Celery lets every type pass, and a requeue reads the settings too."""
    conf = {"broker_url": REDIS} | conf
    assert timeout_of(conf) == 3_600
    (finding,) = findings(conf, [])
    assert finding.what == what
    assert "canary" not in str(finding)


@pytest.mark.parametrize("limit", ["30", {"hard": 30}])
def test_a_time_limit_of_a_wrong_type_is_a_finding(limit: object, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery(set_as_current=False, broker=REDIS, task_time_limit=limit, redlock_nodes="h:1,h:2,h:3")
    app.task(shared=False, name="pay")(locked("x")(body))
    for name in set(app.tasks) - {"pay"}:
        del app.tasks[name]
    worker_start._check(instance=SimpleNamespace(app=app, time_limit=limit))
    (line,) = caplog.messages
    assert "visibility-timeout why=" in line
    assert f"the time limit of pay is {type(limit).__name__}" in line


def test_the_locked_tasks_of_an_app_are_found() -> None:
    app = Celery(set_as_current=False)
    app.task(shared=False, name="plain")(body)
    app.task(shared=False, name="a", autoretry_for=(ValueError,))(locked("x", wait=3.0, ttl=7.0)(body))
    app.task(shared=False, name="b", time_limit=90)(locked("x")(body))
    # Tasks that other apps share are in every app.
    found = [task for task in locked_tasks(app, 5.0, 60) if task.name in {"a", "b", "plain"}]
    assert found == [Locked("a", 3.0, 7.0, 60), Locked("b", 1.0, 5.0, 90)]


def test_a_lock_on_a_base_class_or_on_the_call_is_found() -> None:
    app = Celery(set_as_current=False)

    class Charge(app.Task):  # type: ignore[name-defined,misc]  # Celery is untyped
        name = "charge"

        @locked("x", wait=3.0)
        def run(self) -> None:
            """The body."""

    class Refund(Charge):
        """A task with a lock of its own, which uses the `run` of its base class."""

        name = "refund"

        @locked("y", wait=30.0)
        def run(self) -> None:
            super().run()

    app.register_task(Charge())
    app.register_task(Refund())
    app.task(shared=False, name="called", base=called_class(wait=4.0))(body)
    names = {"called", "charge", "refund"}
    found = [(task.name, task.wait) for task in locked_tasks(app, 5.0, 60) if task.name in names]
    assert found == [("called", 4.0), ("charge", 3.0), ("refund", 30.0), ("refund", 3.0)]


def test_what_is_no_number_is_not_taken_for_one() -> None:
    assert [visibility_timeout._number(value) for value in (None, "", "x", 0, -1, "3")] == [None] * 5 + [3.0]


def test_an_address_in_the_environment_goes_before_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Celery. `redlock doctor --broker` without an app has no setting."""
    app = Celery(set_as_current=False, broker=f"{REDIS}?visibility_timeout=12")
    monkeypatch.setenv("CELERY_BROKER_URL", f"{REDIS}?visibility_timeout=7")
    assert timeout_of(app.conf) == 7
    assert timeout_of({"broker_url": REDIS}) == 3_600
    monkeypatch.setenv("CELERY_BROKER_READ_URL", f"{REDIS}?visibility_timeout=4")
    assert timeout_of(app.conf) == 4
