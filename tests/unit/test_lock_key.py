"""`redlock.celery.lock_key`: the resources that a call of a task locks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from redlock import ConfigurationError
from redlock.celery.lock_key import Key, keys


def charge(self: object, account_id: int, amount: int = 5, *, currency: str = "EUR") -> None:
    """A task like many others."""


def refund(account_id: int, amount: int = 5) -> None:
    """A task of the plainest kind."""


def convert(account: int, amount: int = 0, currency: str = "EUR", /) -> None:
    """A task that takes all arguments by position."""


def anything(**options: Any) -> None:  # noqa: ANN401 - a task that takes anything
    """A task that takes anything."""


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((None, 42), {}),
        ((None, 42, 5), {}),
        ((None,), {"account_id": 42}),
        ((None, 42), {"amount": 5, "currency": "EUR"}),
    ],
)
def test_however_it_is_called_the_same_call_locks_the_same_thing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert Key("account:{account_id}:{amount}:{currency}", charge).of(args, kwargs) == ("account:42:5:EUR",)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((42, 5), {}), ((42,), {}), ((42,), {"amount": 5}), ((), {"amount": 5, "account_id": 42})]
)
def test_so_it_is_where_nothing_but_plain_arguments_is_taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert Key("account:{account_id}:{amount}", refund).of(args, kwargs) == ("account:42:5",)


def test_a_field_may_look_into_an_argument() -> None:
    order = SimpleNamespace(id=7, lines=["a"])
    assert Key("order:{account_id.id}:{account_id.lines[0]}", charge).of((None, order), {}) == ("order:7:a",)


def test_a_key_may_be_a_function_of_the_arguments() -> None:
    key = Key(lambda _self, account_id, *_: f"a:{account_id % 10}", charge)
    assert key.of((None, 42), {}) == key.of((None,), {"account_id": 42}) == ("a:2",)


def test_a_task_that_takes_any_keyword_may_name_any() -> None:
    key = Key("{region}:x", anything)
    assert key.of((), {"region": "eu"}) == ("eu:x",)
    with pytest.raises(ConfigurationError, match=r"can't be made from this call: KeyError\('region'\)"):
        key.of((), {})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("account:{acount_id}", "no argument"),
        ("account:{}", "no argument"),
        ("account:{0}", "no argument"),
        ("account:{account_id", "no template"),
        ("", "empty"),
        (5, "must be a template"),
    ],
)
def test_a_key_that_cannot_work_is_refused_at_definition(template: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError, match=said):
        Key(template, charge)


def test_positional_arguments_beyond_the_named_ones_have_places() -> None:
    def many(first: int, *rest: int) -> None:
        """A task that takes any number of arguments."""

    assert Key("{first}:{rest[1]}", many).of((1, 2, 3), {}) == ("1:3",)
    assert Key("{first}:{rest}", many).of((1, 2), {}) == ("1:[2]",)


def test_braces_that_are_doubled_are_braces() -> None:
    assert Key("{{tag}}:{account_id}", charge).of((None, 42), {}) == ("{tag}:42",)


def test_a_template_without_fields_locks_one_resource() -> None:
    assert Key("nightly", charge).of((None, 1), {}) == Key("nightly", charge).of((None, 2), {}) == ("nightly",)


@pytest.mark.parametrize("template", ["x:{account_id.nope}", "x:{account_id[0]}", "x:{amount.id}"])
def test_a_missing_attribute_is_reported_at_the_call(template: str) -> None:
    class Account:
        def __getitem__(self, place: int) -> None:
            raise IndexError(place)

    with pytest.raises(ConfigurationError, match="charge can't be made from this call"):
        Key(template, charge).of((None, Account()), {})


def test_the_message_names_the_task_the_field_and_what_there_is() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Key("account:{acount_id}", charge)
    assert str(caught.value) == (
        "the key 'account:{acount_id}' of charge has the field {acount_id}, which is no argument of it; "
        "its arguments are self, account_id, amount, currency"
    )
    with pytest.raises(ConfigurationError, match=r"its arguments are none$"):
        Key("{account_id}", lambda: None)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a:{account_id!x}", "the key 'a:{account_id!x}' of charge is no template: there is no conversion !x"),
        ([], "the list of keys is empty; give at least one, such as 'account:{id}'"),
    ],
)
def test_the_message_says_what_a_template_may_be(template: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError) as caught:
        keys(template, charge)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("template", "function"),
    [
        ("a:{account_id!x}", charge),
        ("a:{account_id:{widht}}", charge),
        ("a:{account_id.}", charge),
        ("a:{account_id..id}", charge),
        ("a:{options}", anything),
        ("a:{options[region]}", anything),
    ],
)
def test_a_field_that_no_call_fills_is_refused_at_definition(template: str, function: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError):
        Key(template, function)


def test_a_misfit_of_argument_and_format_names_the_key() -> None:
    with pytest.raises(ConfigurationError, match="can't be made from this call"):
        Key("a:{account_id:d}", charge).of((None, "x"), {})


def test_a_key_that_is_a_function_sees_the_defaults_too() -> None:
    def key(_self: object, account_id: int, amount: int, currency: str) -> str:
        return f"{account_id}:{amount}:{currency}"

    assert Key(key, charge).of((None, 42), {}) == ("42:5:EUR",)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (5, "resource name is int 5"),
        (None, "resource name is NoneType None"),
        (b"x", "resource name is bytes b'x'"),
        ("", "resource name is empty"),
        (["a", 5], "resource name is int 5"),
        ([["a"]], "resource name is list"),
        ([], "the list of resource names is empty"),
    ],
)
def test_a_key_function_makes_a_name_or_names(made: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError, match=rf"the key of .*charge.*: {said}"):
        Key(lambda *_: made, charge).of((None, 42), {})
    for several in (["b", "a", "b"], ("a", "b"), {"a", "b"}):
        assert Key(lambda *_, several=several: several, charge).of((None, 42), {}) == ("a", "b")


def test_a_key_function_need_not_accept_the_defaults() -> None:
    assert Key(lambda _self, account_id: f"a:{account_id}", charge).of((None, 42), {}) == ("a:42",)
    key = Key(lambda _self, account_id, *, currency: f"{currency}:{account_id}", charge)
    assert key.of((None, 42), {"currency": "USD"}) == ("USD:42",)


@pytest.mark.parametrize(
    ("key", "function"),
    [
        (lambda account_id: f"a:{account_id}", charge),
        (lambda: "a", refund),
        (lambda *, account_id: f"a:{account_id}", refund),
        (lambda _self, account_id, amount, money: f"a:{account_id}:{amount}:{money}", charge),
        (lambda account, *, currency: f"{account}:{currency}", convert),
    ],
    ids=["without self", "nothing", "keywords", "a keyword by position", "a position by keyword"],
)
def test_a_key_function_for_no_call_is_refused_at_definition(key: Any, function: Any) -> None:  # noqa: ANN401
    with pytest.raises(
        ConfigurationError, match=rf"^the key function of {function.__name__} takes \(.*so it must take"
    ):
        Key(key, function)


def test_the_message_names_the_arguments_of_both_functions() -> None:
    said = (
        "the key function of charge takes (account_id); it is called with the arguments of the task, "
        "so it must take (self: 'object', account_id: 'int', amount: 'int' = 5, *, currency: 'str' = 'EUR')"
    )
    with pytest.raises(ConfigurationError) as refused:
        Key(lambda account_id: f"a:{account_id}", charge)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("key", "function"),
    [
        (lambda account_id: f"a:{account_id}", refund),
        (lambda _self, account_id, *_, **__: f"a:{account_id}", charge),
        (lambda _self, account_id: f"a:{account_id}", charge),
        (lambda region: f"a:{region}", anything),
        (min, charge),
    ],
    ids=["the least call", "every call", "no defaults", "any arguments", "no signature"],
)
def test_a_key_function_that_fits_a_call_is_accepted(key: Any, function: Any) -> None:  # noqa: ANN401
    Key(key, function)


def transfer(account: int, amount: int = 0, currency: str = "EUR") -> None: ...
def notify(*, user: int | None = None, team: int | None = None) -> None: ...
def close(account: int, amount: int = 0, note: str = "", *, currency: str = "EUR") -> None: ...


@pytest.mark.parametrize(
    ("key", "function", "args", "kwargs"),
    [
        (lambda account, *, currency: f"{account}:{currency}", transfer, (1,), {"currency": "USD"}),
        (lambda *, team: f"team:{team}", notify, (), {"team": 3}),
        (lambda note, *, currency: f"{note}:{currency}", close, (1,), {"currency": "USD"}),
        (lambda currency: f"a:{currency}", close, (1,), {}),
    ],
    ids=["behind a gap", "one of two", "by another name", "by the name of a keyword"],
)
def test_a_key_function_may_fit_a_single_way_to_call(
    key: Callable[..., str], function: Callable[..., None], args: tuple[int, ...], kwargs: dict[str, Any]
) -> None:
    assert Key(key, function).of(args, kwargs) == (key(*args, **kwargs),)


def test_a_field_is_the_argument_and_no_keyword_of_its_name() -> None:
    def close(account_id: int, /, amount: int, **options: object) -> None:
        """A task that takes one more `account_id` by keyword."""

    key = Key("account:{account_id}:{amount}:{note}", close)
    assert key.of((1, 5), {"account_id": 2, "note": "n"}) == ("account:1:5:n",)
    assert Key("account:{account_id}", close).of((1,), {"account_id": 2, "amount": 5}) == ("account:1",)


def test_a_name_that_is_no_good_is_told_in_plain_words() -> None:
    with pytest.raises(ConfigurationError, match="control character") as caught:
        Key("a:{account_id}", charge).of((None, "x\ny"), {})
    assert "ConfigurationError" not in str(caught.value)


def test_several_keys_are_a_list() -> None:
    assert [key.of((None, 1, 2), {}) for key in keys(["a:{account_id}", "b:{amount}"], charge)] == [("a:1",), ("b:2",)]
    with pytest.raises(ConfigurationError, match="empty"):
        keys([], charge)


def test_too_many_arguments_by_name_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="multiple values"):
        Key("a:{account_id}", refund).of((1, 2), {"amount": 5})


def test_a_single_key_is_a_list_of_one() -> None:
    assert [key.of((None, 1), {}) for key in keys("a:{account_id}", charge)] == [("a:1",)]
    assert [key.of((None, 1), {}) for key in keys(lambda _self, account_id: f"b:{account_id}", charge)] == [("b:1",)]


@pytest.mark.parametrize(("function", "args"), [(charge, (None,)), (refund, ()), (refund, (1, 2, 3))])
def test_wrong_arguments_are_a_type_error_as_in_any_call(function: Any, args: tuple[Any, ...]) -> None:  # noqa: ANN401
    with pytest.raises(TypeError):
        Key("a:{account_id}", function).of(args, {})


@pytest.mark.parametrize(
    ("value", "said"),
    [("y" * 1_100, "the key of .*charge.*: .* has 1108 bytes; 1024 are the most"), ("a\nb", "such as a line break")],
    ids=["long", "line break"],
)
def test_a_key_that_a_call_makes_wrong_names_the_task(value: str, said: str) -> None:
    def charge(account_id: str) -> None:
        """A task."""

    for key in ("account:{account_id}", lambda account_id: f"account:{account_id}"):
        with pytest.raises(ConfigurationError, match=said):
            Key(key, charge).of((value,), {})


def test_a_key_function_that_needs_an_event_loop_is_refused() -> None:
    async def account(_self: object, account_id: int, **_: object) -> str:
        return f"account:{account_id}"

    with pytest.raises(ConfigurationError, match=r"^the key function of charge is a coroutine function.*use `def`$"):
        Key(account, charge)  # type: ignore[arg-type]  # that is the point
