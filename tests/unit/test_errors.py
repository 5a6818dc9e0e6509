"""`redlock.errors`: every error survives pickle and Celery's JSON, and says what it has to say."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal

import pytest
from celery import Celery
from celery.backends.base import Backend
from redis.exceptions import LockError, LockNotOwnedError

from redlock import (
    ConfigurationError,
    LockContended,
    LockLost,
    NotHeld,
    NoThread,
    QuorumUnavailable,
    RedlockError,
    Stale,
)

ERRORS = [
    ConfigurationError("this is wrong"),
    LockContended("account:42", "task-1@host (01234567)", 1.5),
    LockContended("account:42"),
    QuorumUnavailable("account:42", 3, 5, {"127.0.0.1:1": "connection refused", "h:2/1": "no answer within 100 ms"}),
    NotHeld("not held", "account:42"),
    NoThread("this process can't start a thread", "account:42"),
    LockLost("account:42", "its 5 s are over"),
    Stale("hits", 7, 9),
    Stale("hits", Decimal(7), Decimal(9)),
    RedlockError("something", "account:42"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle(error: RedlockError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), str(copy), copy.args, copy.lock_name) == (type(error), str(error), error.args, error.lock_name)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_celerys_result_backend(error: RedlockError, serializer: str) -> None:
    backend = Backend(app=Celery(set_as_current=False), serializer=serializer)
    stored = backend.prepare_exception(error)
    copy = backend.exception_to_python(json.loads(json.dumps(stored)) if serializer == "json" else stored)
    assert type(copy) is type(error)
    assert (str(copy), copy.args) == (str(error), error.args if serializer == "pickle" else copy.args)
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_who_catches_redis_pys_lock_error_catches_ours(error: RedlockError) -> None:
    assert isinstance(error, LockError)
    assert str(error) in repr(error)


def test_a_lost_lock_is_a_lock_that_is_not_owned() -> None:
    assert issubclass(LockLost, LockNotOwnedError)


def test_the_three_failures_are_three() -> None:
    kinds = (LockContended, QuorumUnavailable, LockLost)
    assert not any(issubclass(one, other) for one in kinds for other in kinds if one is not other)


def test_no_quorum_names_each_node_and_why() -> None:
    text = str(ERRORS[3])
    assert "127.0.0.1:1: connection refused" in text
    assert "h:2/1: no answer within 100 ms" in text
    assert "2 of 5 nodes gave no vote, 3 votes are needed" in text


def test_contended_names_the_holder_and_the_remaining_time() -> None:
    said = str(ERRORS[1])
    assert said.endswith("held by task-1@host (01234567); the lease ends in 1.500 s unless the holder renews it")
