"""`@locked`, as far as it needs neither broker nor node."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from celery import Celery, shared_task

from redlock import ConfigurationError, NotHeld
from redlock.celery import current_lease, locked

APP = Celery(set_as_current=False)


def body(account_id: int, amount: int = 5) -> int:
    """Charge an account."""
    return account_id + amount


def test_the_decorator_keeps_name_docstring_and_signature() -> None:
    wrapped = locked("account:{account_id}")(body)
    assert inspect.signature(wrapped) == inspect.signature(body)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == ("body", "Charge an account.", __name__)


def test_celerys_check_of_a_calls_arguments_still_works() -> None:
    task = APP.task(name="charge")(locked("account:{account_id}")(body))
    with pytest.raises(TypeError):
        task.apply_async((1, 2, 3))
    with pytest.raises(TypeError):
        task.delay()


@pytest.mark.parametrize("make", [APP.task, shared_task])
def test_above_the_task_it_is_refused_at_import(make: Any) -> None:  # noqa: ANN401 - Celery is untyped
    with pytest.raises(ConfigurationError, match="it must stand below"):
        locked("x")(make(name="above")(body))


def test_on_async_def_it_is_refused_at_import() -> None:
    async def never(account_id: int) -> None:
        """Celery would never run this."""

    with pytest.raises(ConfigurationError, match="async def never"):
        locked("a:{account_id}")(never)


def test_on_what_is_no_function_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no function"):
        locked("x")(5)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"wait": -1}, "wait is -1"),
        ({"wait": "1"}, "wait is '1'"),
        ({"ttl": 0}, "ttl is 0"),
        ({"otherwise": "drop"}, "'requeue', 'skip' or 'raise'"),
        ({"max_requeues": -1}, "max_requeues is -1"),
        ({"max_requeues": True}, "max_requeues is True"),
        ({"max_hold": 0}, "max_hold is 0"),
        ({"on_lost": "ignore"}, "'check' or 'raise'"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_import(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        locked("x", **options)


def test_a_field_that_is_no_argument_is_refused_at_import() -> None:
    with pytest.raises(ConfigurationError, match="no argument"):
        locked("account:{acount_id}")(body)


def test_outside_of_a_task_there_is_no_current_lease() -> None:
    with pytest.raises(NotHeld):
        current_lease()
