"""`redlock.celery.heartbeat`: the files of a worker, with a timer that a test advances."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from redlock.celery import heartbeat
from redlock.celery.heartbeat import HeartbeatStep
from redlock.settings import EXPOSED

HEART, METRICS = "/run/heart", "/run/metrics.prom"
TEXT = "a of w1@h\nb of w1@h\n"


class Timer:
    """The consumer's timer: the calls that are due, by their number."""

    def __init__(self) -> None:
        self.due: dict[int, tuple[float, Callable[..., None], tuple[Any, ...]]] = {}

    def call_after(self, seconds: float, function: Callable[..., None], arguments: tuple[Any, ...]) -> SimpleNamespace:
        number = len(self.due)
        self.due[number] = seconds, function, arguments
        return SimpleNamespace(cancel=lambda: self.due.pop(number))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    monkeypatch.setattr("redlock._files.replace", lambda name, text: files.append((name, text)))
    monkeypatch.setattr(
        heartbeat,
        "_metrics",
        [SimpleNamespace(text=lambda worker, name=name: f"{name} of {worker}\n") for name in "ab"],
    )
    return files


def app_with(**settings: object) -> Celery:
    app = Celery(set_as_current=False, broker="memory://")
    app.conf.update(settings)
    return app


def step_with(**settings: object) -> tuple[HeartbeatStep, Any]:
    consumer = SimpleNamespace(app=app_with(**settings), timer=Timer(), hostname="w1@h")
    return HeartbeatStep(consumer), consumer


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({}, []),
        ({"redlock_heartbeat_file": HEART}, [(HEART, "")]),
        ({"redlock_metrics_file": METRICS}, [(METRICS, TEXT)]),
        ({"redlock_heartbeat_file": HEART, "redlock_metrics_file": METRICS}, [(HEART, ""), (METRICS, TEXT)]),
    ],
)
def test_each_file_that_a_setting_names_is_written(
    written: list[tuple[str, str]], settings: dict[str, object], files: list[tuple[str, str]]
) -> None:
    step, consumer = step_with(**settings)
    assert step.include_if(consumer) is bool(files)
    step.beat()
    assert written == files


def test_the_heart_beats_every_five_seconds_until_the_stop(written: list[tuple[str, str]]) -> None:
    step, consumer = step_with(redlock_heartbeat_file=HEART)
    step.stop(consumer)
    step.start(consumer)
    for beats in (1, 2):
        assert len(written) == beats
        (seconds, function, arguments) = consumer.timer.due.popitem()[1]
        assert (seconds, arguments) == (5.0, (consumer,))
        function(*arguments)
    step.shutdown(consumer)
    assert not consumer.timer.due
    step.stop(consumer)
    assert HeartbeatStep.requires == ("celery.worker.consumer.tasks:Tasks",)


def test_a_failed_write_is_logged_until_one_succeeds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, _ = step_with(redlock_heartbeat_file=HEART)
    fails = iter([True, True, False, True])

    def replace(*_: object) -> None:
        if next(fails):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("redlock._files.replace", replace)
    for _ in range(4):
        step.beat()
    assert caplog.messages == [f"file-not-written file={HEART} why='No space left on device'"] * 2


def test_a_worker_with_a_wrong_setting_does_not_start() -> None:
    app = app_with(redlock_ttl="long")
    with pytest.raises(SystemExit, match=r"^the lock's settings: "):
        heartbeat._add_the_step(instance=SimpleNamespace(app=app))
    assert HeartbeatStep not in app.steps["consumer"]
    app = app_with()
    heartbeat._add_the_step(instance=SimpleNamespace(app=app))
    assert HeartbeatStep in app.steps["consumer"]


def test_a_worker_counts_once_and_only_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[str]] = []
    monkeypatch.setattr(heartbeat, "_metrics", [])
    monkeypatch.setattr(heartbeat, "start_counting", counted.append)
    for metrics_file, times in (("", 0), (METRICS, 1), (METRICS, 1)):
        app = app_with(redlock_nodes="h:1,h:2,h:3", redlock_metrics_file=metrics_file)
        heartbeat._count(sender=SimpleNamespace(app=app))
        assert counted == [["h:1", "h:2", "h:3"]] * times


def test_the_settings_of_a_worker_are_logged_with_their_origins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "redlock")
    monkeypatch.setenv("REDLOCK_TTL", "7")
    heartbeat._show_settings(instance=SimpleNamespace(app=app_with(redlock_nodes="redis://:canary@h:1,h:2,h:3")))
    shown, exposed = caplog.messages
    assert shown.startswith("settings nodes=h:1,h:2,h:3 ttl=7.0 ")
    assert "ttl: REDLOCK_TTL in the environment" in shown.partition(" origins=")[2]
    assert exposed == f"password-in-conf setting='redlock_nodes in app.conf' why='{EXPOSED}'"
