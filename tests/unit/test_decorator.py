"""Tests of `@locked` without a broker or nodes."""

from __future__ import annotations

import doctest
import functools
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, shared_task

from redlock import ConfigurationError
from redlock.admin.visibility_timeout import is_locked
from redlock.celery import decorator, locked, pools, worker_start
from redlock.celery.decorator import _max_hold_ms
from tests.unit.locked_tasks import called_class

APP = Celery(set_as_current=False)


def body(account_id: int, amount: int = 5) -> int:
    """Charge an account."""
    return account_id + amount


def test_the_decorator_keeps_name_docstring_and_signature() -> None:
    wrapped = locked("account:{account_id}")(body)
    assert inspect.signature(wrapped) == inspect.signature(body)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == ("body", "Charge an account.", __name__)


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(decorator) == (0, 8)


def test_celerys_check_of_a_calls_arguments_still_works() -> None:
    task = APP.task(name="tests.test_celery.charge")(locked("account:{account_id}")(body))
    with pytest.raises(TypeError):
        task.apply_async((1, 2, 3))
    with pytest.raises(TypeError):
        task.delay()


def test_celerys_check_knows_that_a_bound_task_brings_itself() -> None:
    def bound(self: object, account_id: int, *, currency: str = "EUR") -> None:
        """A task that gets itself."""

    task = APP.task(name="bound", bind=True)(locked("account:{account_id}")(bound))
    task.__header__(42, currency="USD")
    for arguments, keywords in [((), {}), ((1, 2), {}), ((1,), {"nope": 1})]:
        with pytest.raises(TypeError):
            task.apply_async(arguments, keywords)


def test_a_key_may_look_at_the_task_itself() -> None:
    def bound(self: object, account_id: int) -> None:
        """A task that gets itself."""

    locked("{self.name}:{account_id}")(bound)


@pytest.mark.parametrize("make", [APP.task, shared_task])
def test_above_the_task_it_is_refused_at_import(make: Any) -> None:  # noqa: ANN401 - Celery is untyped
    with pytest.raises(ConfigurationError, match="it must stand below"):
        locked("x")(make(name="above")(body))


async def never(account_id: int) -> None:
    """Celery would never run this."""


async def never_either(account_id: int) -> Any:  # noqa: ANN401
    """Nor this."""
    yield account_id


def generator(account_id: int) -> Any:  # noqa: ANN401
    """Its body would run after the end of the lock."""
    yield account_id


class Charge(APP.Task):  # type: ignore[name-defined,misc]  # Celery is untyped
    name = "charge-class"


@functools.wraps(locked("account:{account_id}")(body))
def decorated(account_id: int) -> int:
    """Between the two locks."""
    return account_id


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (locked("x")(body), r"two @locked on body; write @locked\(\["),
        (decorated, "two @locked on body"),
        (never, "async def never"),
        (never_either, "async def never_either"),
        (generator, "generator, a generator; its body would run without the lock"),
        (Charge(), "it must stand below"),
        (Charge, "no function"),
        (5, "no function"),
    ],
    ids=["locked", "locked below", "async", "async generator", "generator", "task", "class", "number"],
)
def test_above_what_is_no_plain_function_it_is_refused(function: Any, said: str) -> None:  # noqa: ANN401 - that is the point
    with pytest.raises(ConfigurationError, match=said):
        locked("x")(function)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"wait": -1}, "wait is -1"),
        ({"wait": "1"}, "wait is '1'"),
        ({"ttl": 0}, "ttl is 0"),
        ({"on_conflict": "drop"}, "'requeue', 'skip' or 'raise'"),
        ({"max_requeues": -1}, "max_requeues is -1"),
        ({"max_requeues": True}, "max_requeues is True"),
        ({"max_hold": 0}, "max_hold is 0"),
        ({"reentrant": "no"}, "^reentrant is 'no'; it must be True or False$"),
        ({"on_lost": "ignore"}, "^on_lost is 'ignore'; it must be 'check' or 'raise'$"),
        ({"on_lost": None}, "'check' or 'raise'"),
        ({"wait": None}, "wait is None"),
        ({"wait": float("inf")}, "wait is inf"),
        ({"wait": True}, "wait is True"),
        ({"ttl": float("nan")}, "ttl is nan"),
        ({"ttl": "5"}, "ttl is '5'"),
        ({"on_conflict": None}, "'requeue', 'skip' or 'raise'"),
        ({"max_requeues": 1.5}, "max_requeues is 1.5"),
        ({"max_hold": "1"}, "max_hold is '1'"),
        ({"wait": 1e308}, "wait is 1e"),
        ({"on_lost": ["check"]}, "'check' or 'raise'"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_import(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        locked("x", **options)


def limited(message: float | None, own: float | None) -> Any:  # noqa: ANN401 - Celery is untyped
    """A task with time limits and nothing else."""
    request = SimpleNamespace(timelimit=(message, None), called_directly=False)
    return SimpleNamespace(request=request, time_limit=own, soft_time_limit=None)


@pytest.mark.parametrize("pool", ["solo", "thread", "gevent", "eventlet", ""])
def test_a_lease_ignores_a_limit_that_kills_nothing(monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    monkeypatch.setattr(pools, "_name", pool)
    monkeypatch.setattr(pools, "_time_limit", 5)
    task = limited(3, 4)
    assert _max_hold_ms(None, task) is None
    assert _max_hold_ms(7.5, task) == 7_500


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "eventlet"])
def test_the_workers_pool_is_noted_before_the_fork(monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    monkeypatch.setattr(pools, "_name", "")
    monkeypatch.setattr(pools, "_time_limit", None)
    monkeypatch.setattr(pools, "_soft_time_limit", None)
    pools._note(SimpleNamespace(pool_cls=pool, time_limit=60, soft_time_limit=50))
    task = limited(None, None)
    assert pools.hard_limit(task) == (60 if pool == "prefork" else None)
    assert pools.overtime(task) == (10 if pool == "prefork" else float("inf"))


@pytest.mark.parametrize(
    ("pool", "of_celery", "of_billiard", "count"),
    [
        ("prefork", {"pool_start_method": "spawn"}, "fork", 1),
        ("prefork", {"pool_start_method": "fork"}, "spawn", 1),
        ("prefork", {"pool_start_method": "fork"}, "fork", 0),
        ("prefork", {}, "spawn", 1),
        ("prefork", {}, "fork", 0),
        ("solo", {"pool_start_method": "spawn"}, "spawn", 0),
    ],
)
def test_a_worker_that_spawns_its_children_says_so(
    monkeypatch: pytest.MonkeyPatch, pool: str, of_celery: dict[str, str], of_billiard: str, count: int
) -> None:
    """Celery below 5.7 has no setting, and the default of billiard 4.3 on macOS is to spawn."""
    warned: list[str] = []
    monkeypatch.setattr("redlock._log.warning", lambda event, **_: warned.append(event))
    monkeypatch.setattr(pools, "_name", pool)
    monkeypatch.setattr(pools, "get_start_method", lambda: of_billiard)
    app = Celery(set_as_current=False, broker="memory://", redlock_nodes="h:1,h:2,h:3")
    worker_start._check(instance=SimpleNamespace(app=app, time_limit=None, **of_celery))
    assert warned == ["spawned-children"] * count


@pytest.mark.parametrize(
    ("message", "own", "of_worker", "overtime"),
    [(3, 4, 5, 17), (None, 4, 5, 16), (None, None, 5, 15), (None, None, None, float("inf"))],
)
def test_overtime_ends_with_the_hard_limit(
    monkeypatch: pytest.MonkeyPatch, message: float | None, own: float | None, of_worker: float | None, overtime: float
) -> None:
    monkeypatch.setattr(pools, "_name", "prefork")
    monkeypatch.setattr(pools, "_soft_time_limit", of_worker)
    task = limited(None, 20)
    task.request.timelimit, task.soft_time_limit = (None, message), own
    assert pools.overtime(task) == overtime
    task.request.timelimit = None
    assert pools.overtime(task) == (overtime if message is None else 16)


def test_without_parentheses_it_is_refused_at_import() -> None:
    with pytest.raises(ConfigurationError, match="without a key; write @locked"):

        @APP.task
        @locked  # type: ignore[arg-type]  # that is the point
        def charge(account_id: int) -> int:
            return account_id


def test_a_key_function_beside_the_task_is_no_missing_key() -> None:
    def key_of(account_id: int) -> str:
        return f"account:{account_id}"

    @locked(key_of)
    def charge(account_id: int) -> int:
        return account_id

    @locked(lambda account_id: f"account:{account_id}")
    def refund(account_id: int) -> int:
        return account_id

    assert charge.__name__ == "charge"
    assert refund.__name__ == "refund"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "the key of body is None; it must be a template"),
        (5, "the key of body is 5; it must be a template"),
        (["a", 5], "the key of body is 5; it must be a template"),
        (b"x", "the key of body is b'x'; it must be a template"),
        ([], "the list of keys is empty"),
        ("account:{acount_id}", "no argument"),
        ("x" * 1_100, "the key of body: resource name .* has 1100 bytes; 1024 are the most"),
        ("x" * 1_100 + "{account_id}", "has 1100 bytes"),
        ("line\nbreak", "the key of body: .* such as a line break"),
        ("line\r\n{account_id}", "such as a line break"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_key_that_can_never_work_is_refused_at_import(key: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError, match=said):
        locked(key)(body)


class Batch(APP.Task):  # type: ignore[name-defined,misc]  # Celery is untyped
    """As the base class of celery-batches."""

    __module__ = "celery_batches"
    abstract = True


class CalledBatch(called_class(), Batch):  # type: ignore[misc]  # as above
    """The same for batches."""

    abstract = True


@pytest.mark.parametrize(("base", "function"), [(Batch, locked("x")(body)), (CalledBatch, body)])
def test_a_batch_under_a_lock_is_refused_at_the_workers_start(base: type, function: Any) -> None:  # noqa: ANN401
    app = Celery(set_as_current=False)
    app.task(shared=False, name="free", base=Batch)(body)
    worker_start.refuse(app)
    app.task(shared=False, name="batch", base=base)(function)
    with pytest.raises(SystemExit, match="batch is a task of celery-batches under @locked"):
        worker_start.refuse(app)


def test_a_worker_refuses_a_decorator_in_place_of_a_function() -> None:
    app = Celery(set_as_current=False)
    app.task(shared=False, name="missing")(locked(body))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(SystemExit, match="missing is under @locked without a key"):
        worker_start.refuse(app)


def test_a_worker_refuses_a_second_lock_on_the_call() -> None:
    app = Celery(set_as_current=False)
    app.task(shared=False, name="once", base=called_class())(body)
    worker_start.refuse(app)
    app.task(shared=False, name="twice", base=called_class())(locked("y")(body))
    with pytest.raises(SystemExit, match="twice has a @locked on its __call__ and one on its run"):
        worker_start.refuse(app)


def test_a_worker_refuses_a_ttl_that_no_run_could_have() -> None:
    app = Celery(set_as_current=False)
    app.conf.update(redlock_max_ttl=6.0)
    app.task(shared=False, name="right")(locked("x", ttl=6)(body))
    worker_start.refuse(app)
    app.task(shared=False, name="long")(locked("x", ttl=20)(body))
    with pytest.raises(SystemExit) as refused:
        worker_start.refuse(app)
    said = "@locked on long: ttl is 20 s, longer than max_ttl, 6 s; shorten it, or raise max_ttl for all clients"
    assert str(refused.value) == said
    app.conf.redlock_max_ttl = 20
    worker_start.refuse(app)
    app.conf.redlock_node_timeout = 5
    with pytest.raises(SystemExit, match=r"^the lock settings of this worker: ttl is 5.0 s, too short: two node"):
        worker_start.refuse(app)


def test_a_worker_refuses_a_ttl_of_a_lock_on_the_call() -> None:
    app = Celery(set_as_current=False)
    app.conf.update(redlock_max_ttl=6.0)
    app.task(shared=False, name="long", base=called_class(ttl=20))(body)
    with pytest.raises(SystemExit, match=r"^@locked on long: ttl is 20 s, longer than max_ttl"):
        worker_start.refuse(app)


def test_a_worker_without_locked_tasks_needs_no_settings() -> None:
    app = Celery(set_as_current=False)
    app.conf.redlock_tttl = 1
    app.task(shared=False, name="free")(body)
    for name in [name for name, task in app.tasks.items() if is_locked(task)]:
        app.tasks.pop(name)  # tasks that other apps share
    worker_start.refuse(app)
    app.task(shared=False, name="locked")(locked("x")(body))
    with pytest.raises(
        SystemExit, match=r"^the lock settings of this worker: redlock_tttl is no setting; did you mean"
    ):
        worker_start.refuse(app)
