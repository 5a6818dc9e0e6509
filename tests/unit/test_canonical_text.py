"""`redlock.celery.canonical_text`: equal arguments make equal keys, and a value without a stable text makes none."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import math
import sys
import uuid
from collections import ChainMap, Counter, OrderedDict, UserDict, UserString, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pydantic
import pytest

from redlock import ConfigurationError
from redlock.celery.canonical_text import UnstableText, text
from redlock.celery.lock_key import Key

WHOLE = {
    "0>8": "00000005",
    ",": "5",
    ">3": "  5",
    "d": "5",
    "x": "5",
    ".2f": "5.00",
    ".3": "5.0",
    "e": "5.000000e+00",
    "%": "500.000000%",
}
"""The text of 5 in these formats."""
PARTS = {">5": "  0.5", ",": "0.5", ".2f": "0.50", "f": "0.500000", ".3": "0.5", "%": "50.000000%"}
"""The text of a half in these formats."""
EXACT = {
    ".2f": "12345678901234567.00",
    ",.0f": "12,345,678,901,234,567",
    ".17": "12345678901234567",
    ".0%": "1234567890123456700%",
    "_d": "12_345_678_901_234_567",
    "_.0f": "12_345_678_901_234_568",
}
"""The text of `LARGE` in these formats. Only a float has a format with `_` and a point."""
UTC = dt.timezone.utc
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=UTC)
HALF_PAST = dt.datetime(2026, 7, 1, 0, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
"""The day before in UTC."""
LARGE = 12345678901234567
"""No float is equal."""
NUMBER = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Region(str, enum.Enum):
    EU = "eu"


class Shape(enum.Enum):
    ROUND = object()


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Order:
    number: int
    tags: set[str] = dataclasses.field(default_factory=set)
    seen: object = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass
class Account:
    number: int
    balance: int

    def __str__(self) -> str:
        return f"account {self.number}"


class Customer(pydantic.BaseModel):
    name: str
    order: Order
    roles: set[str] = set()


class Loud(pydantic.BaseModel):
    name: str

    def __str__(self) -> str:
        return self.name.upper()


class Plain:
    """A class without its own text."""


class Shown:
    """Its `__repr__` is meant for debugging."""

    def __repr__(self) -> str:
        return "Shown()"


class Leaky:
    """Its text has the text of an object without a text."""

    def __str__(self) -> str:
        return f"leaky {object()}"


class Money:
    def __str__(self) -> str:
        return "5 EUR"


class Markup(str):
    """A string with a text that differs."""

    __slots__ = ()

    def __str__(self) -> str:
        return "markup"


def task(value: object = None, width: int = 5) -> None:
    """A task with a value."""


def key(template: str, *args: Any) -> str:  # noqa: ANN401 - whatever a task is called with
    (name,) = Key(template, task).of(args, {})
    return name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eu", "eu"),
        (UserString("eu"), "eu"),
        (Markup("eu"), "eu"),
        (42, "42"),
        (-7, "-7"),
        (True, "True"),
        (None, "None"),
        (5.5, "5.5"),
        (5.0, "5"),
        (-0.0, "0"),
        (1e16, "10000000000000000"),
        (float("inf"), "inf"),
        (Decimal("5.10"), "5.1"),
        (Decimal("1E+2"), "100"),
        (Decimal("-0.00"), "0"),
        (Decimal("0E+7"), "0"),
        (Decimal("12345678901234567890123456789012345.10"), "12345678901234567890123456789012345.1"),
        (Decimal("1E+1000000"), "1E+1000000"),
        (Decimal("1E+399"), "1" + "0" * 399),
        (Decimal("1E+400"), "1E+400"),
        (Decimal("NaN"), "NaN"),
        (Fraction(1, 3), "1/3"),
        (b"a", "b'a'"),
        (bytearray(b"a"), "b'a'"),
        (NUMBER, "12345678-1234-5678-1234-567812345678"),
        (dt.date(2026, 5, 1), "2026-05-01"),
        (dt.time(12, 30), "12:30:00"),
        (dt.timedelta(days=1), "1 day, 0:00:00"),
        (NOON, "2026-05-01T12:00:00+00:00"),
        (NOON.replace(tzinfo=None), "2026-05-01T12:00:00"),
        (Color.RED, "red"),
        (Level.HIGH, "3"),
        (Region.EU, "eu"),
        (PurePosixPath("/a/b"), "/a/b"),
        (ipaddress.ip_address("::1"), "::1"),
        (Money(), "5 EUR"),
        ([1, "a", None, True], '[1,"a",null,true]'),
        ((1, [2]), "[1,[2]]"),
        (range(3), "[0,1,2]"),
        (deque([2, 1]), "[2,1]"),
        (Point(1, 2), "[1,2]"),
        ({3, 20, 1}, "[1,20,3]"),
        (frozenset("ba"), '["a","b"]'),
        ({"b": 1, "a": {"d": 2, "c": 3}}, '{"a":{"c":3,"d":2},"b":1}'),
        ({2: "x", 10: "y"}, '{"10":"y","2":"x"}'),
        ({Color.RED: 1, NUMBER: 2}, '{"12345678-1234-5678-1234-567812345678":2,"red":1}'),
        ({"b": 1, "a": 2}.keys(), '["a","b"]'),
        ({"k": 'a"b\n\u00e4'}, '{"k":"a\\"b\\n\u00e4"}'),
        (Order(7, {"b", "a"}), '{"number":7,"tags":["a","b"]}'),
        (Account(7, 100), "account 7"),
        (Customer(name="Ann", order=Order(7)), '{"name":"Ann","order":{"number":7,"tags":[]},"roles":[]}'),
        (Loud(name="Ann"), "ANN"),
        ([NOON, Decimal("5.0"), Money(), Account(7, 1)], '["2026-05-01T12:00:00+00:00",5,"5 EUR","account 7"]'),
    ],
)  # fmt: skip
def test_a_value_has_one_text(value: object, expected: str) -> None:
    assert text(value) == expected
    assert key("{value}", value) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        ({"a": 1, "b": 2}, Counter(["a", "b", "b"])),
        ({"a": 1, "b": 2}, UserDict(b=2, a=1)),
        ({"a": 1, "b": 2}, ChainMap({"b": 2}, {"a": 1})),
        ({"a": 1, "b": 2}, MappingProxyType({"b": 2, "a": 1})),
        ({"a", "b"}, frozenset(["b", "a"])),
        ([{"a": {1, 2}}], ({"a": {2, 1}},)),
        (5, 5.0),
        (5, Decimal("5.00")),
        (0.5, Decimal("0.50")),
        (0.5**30, Decimal(0.5**30)),
        (math.inf, Decimal("Infinity")),
        (10**300, Decimal("1E+300")),
        ({"a": 5}, {"a": Decimal("5.0")}),
        (NOON, NOON.astimezone(dt.timezone(dt.timedelta(hours=2)))),
        (Region.EU, "eu"),
        (Level.HIGH, 3),
        (b"a", bytearray(b"a")),
        (Order(1, seen="now"), Order(1, seen="then")),
        (Customer(name="A", order=Order(1), roles={"x", "y"}), Customer(roles={"y", "x"}, order=Order(1), name="A")),
    ],
)
def test_values_that_are_equal_have_the_same_text(first: object, second: object) -> None:
    assert text(first) == text(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a,b"], ["a", "b"]),
        (['a","b'], ["a", "b"]),
        ({"a": "1"}, {"a": 1}),
        ({"a": None}, {"a": "null"}),
        ({"a:b": "c"}, {"a": "b:c"}),
        ([[], [1]], [[1], []]),
        (Decimal("1E+1000000"), Decimal("1E+1000001")),
        (NOON, NOON.replace(tzinfo=None)),
    ],
)
def test_values_that_differ_have_texts_that_differ(first: object, second: object) -> None:
    assert text(first) != text(second)


def test_a_decimal_of_a_thousand_million_digits_is_cheap() -> None:
    assert text(Decimal("1E+999999999")) == "1E+999999999"
    assert text(Decimal("1E-999999999")) == "1E-999999999"


@pytest.mark.parametrize(
    "value",
    [
        Plain(),
        Plain,
        Order,
        Shown(),
        Leaky(),
        object(),
        SimpleNamespace(a=1),
        task,
        len,
        Order(1).tags.add,
        iter([]),
        (part for part in "ab"),
        {}.values(),
        memoryview,
        Shape.ROUND,
        pytest,
    ],
)
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: [it], lambda it: {"a": it}, lambda it: Order(1, seen=it)])
def test_a_value_without_a_stable_text_is_refused(value: object, wrap: Any) -> None:  # noqa: ANN401 - a function
    wrapped = wrap(value)
    if isinstance(wrapped, Order):
        wrapped.tags = value  # type: ignore[assignment]  # any value at all
    with pytest.raises(UnstableText, match="same in every process"):
        text(wrapped)
    with pytest.raises(ConfigurationError, match=r"can't be made from this call: a value of type"):
        key("a:{value}", wrapped)


def test_the_refusal_says_what_would_be_right_and_not_the_value() -> None:
    with pytest.raises(ConfigurationError) as caught:
        key("a:{value}", Shown())

    assert str(caught.value) == (
        "the key 'a:{value}' of task can't be made from this call: a value of type Shown has no text that is the same "
        "in every process; name an attribute that identifies it, such as {order.id}, or give a function as the key"
    )


@pytest.mark.parametrize("template", ["{value.number}", "{value.number:>3}", "{value.number!s}", "{value:{width}}"])
def test_a_field_may_lead_to_a_value_with_a_text(template: str) -> None:
    value = Decimal(7) if "width" in template else Order(7)

    assert key(template, value).strip() == "7"


@pytest.mark.parametrize(
    "template", ["{value.nothing}", "{value!r}", "{value!s}", "{value!a}", "{value:>30}", "{value[0]}"]
)
def test_no_way_of_writing_a_field_lets_an_address_through(template: str) -> None:
    value = [Plain()] if "[" in template else Plain()
    if "nothing" in template:
        value.nothing = Plain()  # type: ignore[union-attr]  # it is a Plain
    with pytest.raises(ConfigurationError, match="can't be made from this call"):
        key(template, value)


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("{value!r}", {"b", "a"}, '["a","b"]'),
        ("{value!r}", "eu", "'eu'"),
        ("{value!s}", 5.0, "5"),
        ("{value:%Y-%m-%d %H:%M}", HALF_PAST, "2026-07-01 00:30"),
        ("{value!s:>26}", HALF_PAST, " 2026-06-30T22:30:00+00:00"),
        ("{value:03d}", Level.HIGH, "003"),
        ("{value:>5}", Color.RED, "  red"),
        ("{value:>6}", Money(), " 5 EUR"),
        ("{value:.2f}", Decimal("5.101"), "5.10"),
        ("{value[b]}", {"b": {2, 1}}, "[1,2]"),
        ("{value[0]}", [Decimal("5.10")], "5.1"),
        ("{value[0]}", [5.0], "5"),
    ],
)
def test_conversions_and_formats_keep_the_text_stable(template: str, value: object, expected: str) -> None:
    assert key(template, value) == expected


@pytest.mark.parametrize(
    ("spec", "equal", "expected"),
    [
        *((spec, (5, 5.0, Decimal(5), Decimal("5.00"), Decimal("0.5e1")), said) for spec, said in WHOLE.items()),
        *((spec, (0.5, Decimal("0.5"), Decimal("0.50"), Decimal("5e-1")), said) for spec, said in PARTS.items()),
        (">22", (Decimal("0.12345678901234567890"), Decimal("0.1234567890123456789")), " 0.1234567890123456789"),
        (".1f", (math.inf, Decimal("Infinity")), "inf"),
        *((spec, (LARGE, Decimal(LARGE), Decimal(f"{LARGE}.00")), said) for spec, said in EXACT.items()),
        (".2f", (10**350, Decimal("1E+350")), "1" + "0" * 350 + ".00"),
        (".2g", (10**350, Decimal("1E+350")), "1.0e+350"),
        ("e", (10**22, 1e22, Decimal("1E+22")), "1.000000e+22"),
    ],
)
def test_equal_values_have_the_same_text_in_a_format(spec: str, equal: tuple[object, ...], expected: str) -> None:
    assert {key(f"{{value:{spec}}}", value) for value in equal} == {expected}


def test_a_row_of_django_has_the_text_of_its_primary_key(monkeypatch: pytest.MonkeyPatch) -> None:
    class Row:
        def __init__(self, pk: object) -> None:
            self.pk = pk

        def __str__(self) -> str:
            return "changes with the other fields"

    monkeypatch.setitem(sys.modules, "django.db.models", SimpleNamespace(Model=Row))
    assert (text(Row(7)), text([Row(NUMBER)]), text(Row(Row(8)))) == ("7", f'["{NUMBER}"]', "8")
    with pytest.raises(UnstableText, match=r"^this .*Row has no primary key; save it first$"):
        text(Row(None))


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(ConfigurationError, match="can't be made from this call"):
        key("{value}", endless)


def test_a_function_that_shows_an_address_is_refused() -> None:
    said = (
        r"^the key function of task made 'a:.* at 0x.*', which has an object's address in it and differs in every "
        r"process; use an attribute that identifies the object$"
    )
    with pytest.raises(ConfigurationError, match=said):
        Key(lambda value, **_: f"a:{value}", task).of((Plain(),), {})
    with pytest.raises(ConfigurationError, match=said):
        Key(lambda value, **_: ["a", f"a:{value}"], task).of((Plain(),), {})


@pytest.mark.parametrize("wrap", [str, lambda text: [{"text": text}]])
def test_an_address_in_a_text_argument_is_accepted(wrap: Any) -> None:  # noqa: ANN401 - a function
    fault = "segfault at 0x7fff12345678 in main"
    assert key("a:{value:>40}", fault) == f"a:{fault:>40}"
    assert Key(lambda *_: f"a:{fault}", task).of((), {"value": wrap(fault)}) == (f"a:{fault}",)
    assert Key(lambda *_: "a:segfault at 0x7fff", task).of(("segfault at 0x7fff", 3), {}) == ("a:segfault at 0x7fff",)
    with pytest.raises(ConfigurationError, match="an object's address"):
        Key(lambda *_: f"a:{fault}:{Plain()}", task).of((), {"value": wrap(fault)})
