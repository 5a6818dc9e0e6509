"""A unit test touches nothing outside its process, waits for nothing, and gives each user the same result."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.signals import task_postrun, task_prerun

from redlock import Redlock
from redlock.celery import delivery
from redlock.celery.single_delivery import delivery_of
from tests.unit.messages import Deliver, Sent


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    earlier, over = set(threading.enumerate()) - {threading.current_thread()}, threading.Event()

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> object:
            # A thread of an earlier test in this process ends by itself. A module that the test has imported first, as
            # Celery's backend of Redis, keeps this function.
            if over.is_set() or threading.current_thread() in earlier:
                return real(*args, **kwargs)
            pytest.fail("a unit test must not connect, start a process or sleep")

        return call

    monkeypatch.setattr(socket.socket, "connect", refused(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", refused(socket.socket.connect_ex))
    monkeypatch.setattr(subprocess, "Popen", refused(subprocess.Popen))
    monkeypatch.setattr(time, "sleep", refused(time.sleep))
    for name in list(os.environ):
        if name.startswith(("REDLOCK_", "COUNTER_", "SIMULATE_", "CELERY_")):
            monkeypatch.delenv(name)
    yield
    over.set()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Redlock]:
    with Redlock(["h:1", "h:2", "h:3", "h:4", "h:5"]) as made:
        # Its thread would dial the nodes.
        monkeypatch.setattr(made._context.waits.publisher, "wake", lambda: None)
        yield made
    # An acquisition that the test has left open ends here. Otherwise its end is logged during a later test.
    gc.collect()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """The arguments and options of each message that goes back to the queue."""
    calls: Sent = []

    def send(_: Task, args: object, kwargs: object, **options: object) -> None:
        calls.append(options | {"args": args, "kwargs": kwargs})

    monkeypatch.setattr(Task, "apply_async", send)
    return calls


@pytest.fixture
def delivered(request: pytest.FixtureRequest) -> Iterator[Deliver]:
    """Makes the message of a run of the task `charge` of the module; its request has these fields."""
    charge = request.module.charge

    def end() -> None:
        while charge.request_stack.top is not None:
            task_postrun.send(sender=charge, task=charge)
            charge.pop_request()

    def deliver(**fields: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        # A request would have the fields of an earlier request too.
        end()
        usual: dict[str, Any] = {"id": "id-1", "called_directly": False, "delivery_info": {"routing_key": "q"}}
        charge.push_request(**usual | fields)
        task_prerun.send(sender=charge, task=charge)
        return delivery_of(charge)

    yield deliver
    end()


@pytest.fixture
def acknowledged_late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task `charge` of the module has `acks_late`, so the broker can take a message back."""
    monkeypatch.setattr(request.module.charge, "acks_late", True)


@pytest.fixture
def rabbitmq(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker of each app is RabbitMQ."""
    connection = SimpleNamespace(userid=None, transport=SimpleNamespace(driver_type="amqp"))
    monkeypatch.setattr(delivery, "_connection", lambda _app: connection)
    producer = SimpleNamespace(channel=SimpleNamespace(basic_publish=None))
    monkeypatch.setattr(Celery, "producer_or_acquire", lambda _app: contextlib.nullcontext(producer))
