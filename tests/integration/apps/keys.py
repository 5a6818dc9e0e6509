"""Prints the locks of tasks with arguments of many types: `python -m tests.integration.apps.keys`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from decimal import Decimal

import django
import pydantic
from django.conf import settings
from django.db import models
from django.utils.functional import SimpleLazyObject

from redlock import ConfigurationError
from redlock.celery.lock_key import Key

settings.configure(USE_TZ=True)
django.setup()

WORDS = {"red", "green", "blue", "black", "white", "pink"}


class Account(models.Model):  # type: ignore[misc]  # Django ships no types
    """A row whose text does not identify the row."""

    number = models.UUIDField(primary_key=True)

    class Meta:
        """No Django project needed."""

        app_label = "shop"

    def __str__(self) -> str:
        return f"an account with {set(WORDS)}"


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    words: set[str]
    by: dict[object, object]


class Form(pydantic.BaseModel):
    words: set[str]
    order: Order


def task(value: object) -> None:
    """A task with a value."""


def main() -> None:
    row = Account(number=uuid.UUID(int=7))
    order = Order(WORDS, {word: {word, *WORDS} for word in WORDS})
    values = [
        WORDS, dict.fromkeys(WORDS, 1), {frozenset(WORDS): 1}, order, Form(words=WORDS, order=order), Color.RED,
        {Color.RED, "x"}, dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc), dt.date(2026, 1, 1), uuid.UUID(int=1),
        Decimal("1.50"),
        row, SimpleLazyObject(lambda: row), [row], {"row": row},
    ]  # fmt: skip
    for value in values:
        print(*Key("a:{value}", task).of((value,), {}))  # noqa: T201 - it is what this program is for
    print(*Key("a:{value:>40}", task).of((row,), {}))  # noqa: T201 - as above
    try:
        Key("a:{value}", task).of((Account(number=None),), {})
    except ConfigurationError as refused:
        print(refused)  # noqa: T201 - as above


if __name__ == "__main__":
    main()
