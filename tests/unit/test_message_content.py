"""Tests of `redlock.celery.message_content`: the message that goes back has every choice of its sender."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded

from redlock.celery import locked
from redlock.celery.message_content import CONTENT_TYPE, NAMES, MessageContent, _remember_the_message

APP = Celery(set_as_current=False, broker="memory://")


@APP.task(name="tests.test_message_content.charge")
@locked("account:{account_id}")
def charge(account_id: int) -> None:
    """A task that needs a lock."""


@APP.task(name="tests.test_message_content.free")
def free() -> None:
    """A task without a lock."""


@pytest.mark.parametrize("is_positional", [True, False])
def test_the_arguments_are_those_from_before_the_body(is_positional: bool) -> None:
    order: dict[str, Any] = {"id": 7, "items": ["book"]}
    content = MessageContent(
        Context(args=[order]) if is_positional else Context(args=[1], kwargs={"order": order}), None
    )
    content.keep_arguments()
    del order["id"]
    order["items"].append(object())
    for _ in range(2):
        args, kwargs = content.arguments()
        found = args[0] if is_positional else kwargs["order"]
        assert found == {"id": 7, "items": ["book"]}
        found.clear()


@pytest.mark.parametrize("args", [[1, "x", 2.5, None, True, b""], None])
def test_arguments_that_no_body_can_change_are_not_copied(args: list[object] | None) -> None:
    content = MessageContent(Context(args=args, kwargs=None), None)
    content.keep_arguments()
    assert content.arguments() == (args, None)
    assert content._kept is None


class Raising:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> str:
        raise self._error


def test_an_argument_without_a_pickle_goes_back_as_it_is() -> None:
    content = MessageContent(Context(args=[Raising(ValueError("no pickle"))], kwargs={}), None)
    content.keep_arguments()
    assert content.arguments()[0] is content._request.args


class Picky(Exception):
    """An argument with an unreadable pickle, as of an exception with two arguments and a single text."""

    error: Exception = TypeError("two arguments")

    def __init__(self, *given: object) -> None:
        if len(given) != 2:
            raise self.error
        super().__init__("one text")


def test_an_argument_with_an_unreadable_pickle_goes_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    content = MessageContent(Context(args=[Picky(1, 2)], kwargs={}), None)
    content.keep_arguments()
    monkeypatch.setattr(Picky, "error", SoftTimeLimitExceeded())
    with pytest.raises(SoftTimeLimitExceeded):
        content.arguments()
    monkeypatch.undo()
    assert content.arguments()[0] is content._request.args


def test_a_soft_time_limit_ends_the_copy_of_arguments() -> None:
    content = MessageContent(Context(args=[Raising(SoftTimeLimitExceeded())], kwargs={}), None)
    with pytest.raises(SoftTimeLimitExceeded):
        content.keep_arguments()


@pytest.mark.parametrize(("user", "kept"), [(None, "ann"), ("ann", "ann"), ("guest", None)])
def test_the_properties_of_the_sender_go_back(user: str | None, kept: str | None) -> None:
    """RabbitMQ refuses a message with the name of another user than the connection's."""
    own: dict[str, Any] = {"app_id": "billing", "message_id": "m-1", "type": "t", "delivery_mode": 1}
    properties = own | {"user_id": "ann", "delivery_tag": "5", "argsrepr": "(1,)"}
    options = MessageContent(Context(id="id-1", properties=properties), None).options({}, user)
    assert {name: options[name] for name in own} == own
    assert options.get("user_id") == kept
    assert not {"delivery_tag", "argsrepr"} & options.keys()


def test_a_serializer_is_marked_where_the_task_has_another() -> None:
    for content_type, kept in (("application/json", None), ("application/x-yaml", "application/x-yaml")):
        message = SimpleNamespace(content_type=content_type, headers={"id": "id-1"})
        request = SimpleNamespace(request_dict={CONTENT_TYPE: "of a retry"}, task=charge, message=message)
        _remember_the_message(request)
        assert request.request_dict.get(CONTENT_TYPE) == kept


@pytest.mark.parametrize(
    ("headers", "names"), [({"x": 1, "headers": {}}, ["x", "headers"]), ({"x": 1}, None), (None, None)]
)
def test_the_names_beside_a_header_named_headers_are_kept(headers: dict[str, Any] | None, names: object) -> None:
    message = SimpleNamespace(content_type="application/json", headers=headers)
    request = SimpleNamespace(request_dict={NAMES: ["of a retry"]}, task=charge, message=message)
    _remember_the_message(request)
    assert request.request_dict.get(NAMES) == names


@pytest.mark.parametrize(
    ("marks", "arrived"),
    [
        ({}, {"trace": "t"}),
        ({"headers": {"sentry": "s"}, NAMES: ["trace", "headers", "id"]}, {"trace": "t", "sentry": "s"}),
        ({"headers": {"sentry": "s"}, NAMES: 5}, {"sentry": "s"}),
        ({"headers": {"sentry": "s", "compression": "gzip", "task": "x"}}, {"sentry": "s"}),
    ],
    ids=["plain", "beside headers", "invented mark", "Celery's own"],
)
def test_an_attribute_of_a_handler_or_the_body_is_no_header(marks: dict[str, Any], arrived: dict[str, Any]) -> None:
    """A value that no serializer takes would keep the task from the queue."""
    request = Context({"id": "id-1", "task": charge.name, "trace": "t", **marks})
    request.span = object()
    content = MessageContent(request, None, marks.get(NAMES))
    request.timer = object()
    assert content.options({"mark": 1}, None)["headers"] == arrived | {"mark": 1, "parent_id": None}


def test_a_task_without_a_lock_gets_no_mark() -> None:
    """A mark would be a header of its retries."""
    message = SimpleNamespace(content_type="application/x-yaml", headers={"headers": {}})
    request = SimpleNamespace(request_dict={}, task=free, message=message)
    _remember_the_message(request)
    assert request.request_dict == {}
