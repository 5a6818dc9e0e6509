"""The canonical text of a value in a key template: equal arguments give equal text, in every process.

Invariants:
1. The text does not depend on the hash seed, on addresses, on the order of insertion or on the Python version.
2. A container becomes compact JSON with sorted keys. A tuple becomes a list, as in Celery's JSON.
3. A value without a stable text is refused. The text of a class that defines `__str__` counts as stable.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import string
import sys
from collections import UserString
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from enum import Enum
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")
_MOST_DIGITS = 400
"""The most digits of a whole Decimal that is written without an exponent. No float has more."""


class UnstableText(TypeError):
    """A value has no text that is the same in every process; the message does not show the value."""


class Formatter(string.Formatter):
    """Fills the fields of a template with canonical text."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """The canonical text where a conversion such as `!s` asks for text, else the value."""
        if conversion and not isinstance(value, str):
            return text(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """The canonical text, in the format that the template asks for."""
        value = _reduced(value)
        kind: Any = type(value)
        if not format_spec or kind.__format__ is object.__format__:
            return format(text(value), format_spec)
        return _without_address(_formatted(value, format_spec), value)


def text(value: object) -> str:
    """The text of a value in a key.

    Raises:
        UnstableText: The value, or a value inside it, has no text that is the same in every process.
    """
    value = _reduced(value)
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if _is_container(value):
        return _json(value)
    return _own(value)


def _formatted(value: Any, spec: str) -> str:
    """The value in this format; equal numbers have the same text."""
    if isinstance(value, float | Decimal):
        value = _same_number(value)
    first = second = value
    if isinstance(value, int):
        # A precision without a type is not for an int. A Decimal has fewer formats than a float.
        first, second = (_real(value), value) if spec[-1] in "eEfFgG%" else (value, _real(value))
    try:
        return format(first, spec)
    except ValueError:
        return format(second, spec)


def _real(value: int) -> float | Decimal:
    """The equal float, or else the equal Decimal."""
    exact = Decimal(value)
    near = float(exact)
    return near if near == value else exact


def _same_number(value: float | Decimal) -> float | Decimal:
    """The equal int, or else the equal float, or else the Decimal without zeros at its end."""
    written = _number(value)
    try:
        return int(written)
    except ValueError:
        near = float(value)
    return near if near == value or isinstance(value, float) else Decimal(written)


def has_address(made: str, values: Iterable[object]) -> bool:
    """Whether the text contains the memory address of an object. An address in the text of a value is content."""
    found = _ADDRESS.findall(made)
    # Almost no key has an address, so almost no call computes the text of all values.
    return bool(found) and not {*found} <= {*_ADDRESS.findall("\n".join(map(_text_or_nothing, values)))}


def _text_or_nothing(value: object) -> str:
    try:
        return text(value)
    except Exception:  # noqa: BLE001 - the code of the application makes the text
        return ""


def _without_address(made: str, value: object) -> str:
    """Return the text, unless it contains the memory address of an object.

    Raises:
        UnstableText: The text contains an address.
    """
    if not isinstance(value, str) and _ADDRESS.search(made):
        raise _unstable(value)
    return made


def _reduced(value: Any) -> Any:
    """The identifying part: an Enum member's value, a row's primary key, the fields of a record."""
    while isinstance(value, Enum):
        value = value.value
    if isinstance(value, _class("django.db.models", "Model")):
        if value.pk is None:
            raise UnstableText(f"this {type(value).__qualname__} has no primary key; save it first")
        return _reduced(value.pk)
    base = _class("pydantic", "BaseModel")
    if isinstance(value, base) and type(value).__str__ is base.__str__:
        # Pydantic's own text shows a set in the order of its hashes.
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not _defines_text(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.compare}
    return value


def _defines_text(value: Any) -> bool:
    """Whether the class defines `__str__`. The text of `__repr__` is meant for debugging and is not stable."""
    kind: Any = type(value)
    return kind.__str__ is not object.__str__


def _unstable(value: object) -> UnstableText:
    return UnstableText(
        f"a value of type {type(value).__qualname__} has no text that is the same in every process; "
        "name an attribute that identifies it, such as {order.id}, or give a function as the key"
    )


def _class(module: str, name: str) -> Any:
    """A class of an optional package. Before the package is imported, no value can be an instance."""
    return getattr(sys.modules.get(module), name, ())


def _number(value: float | Decimal) -> str:
    """The text of a number; equal numbers have the same text, whatever their types."""
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return int.__repr__(int(value)) if value.is_integer() else float.__repr__(value)
    if not value.is_finite():
        return repr(float(value)) if value.is_infinite() else str(value)
    # Rounds nothing, in contrast to the context of the thread.
    exact = Context(prec=len(value.as_tuple().digits), Emin=MIN_EMIN, Emax=MAX_EMAX)
    value = value.normalize(exact)
    if value.adjusted() < _MOST_DIGITS and value == value.to_integral_value():
        return str(int(value))
    near = float(value)
    return repr(near) if near == value else str(value)


def _own(value: Any) -> str:
    """The text that the type itself defines; a time with a zone is in UTC."""
    if isinstance(value, dt.datetime) and value.utcoffset() is not None:
        return value.astimezone(dt.timezone.utc).isoformat()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value))
    if not _defines_text(value):
        raise _unstable(value)
    return _without_address(str(value), value)


def _is_container(value: object) -> bool:
    return isinstance(value, Mapping | AbstractSet | Sequence) and not isinstance(value, bytes | bytearray | UserString)


def _json(value: Any) -> str:
    value = _reduced(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if isinstance(value, str) or not _is_container(value):
        return _quoted(text(value))
    if isinstance(value, Mapping):
        pairs = sorted((text(key), _json(inner)) for key, inner in value.items())
        return "{" + ",".join(f"{_quoted(key)}:{inner}" for key, inner in pairs) + "}"
    parts = map(_json, value)
    return "[" + ",".join(sorted(parts) if isinstance(value, AbstractSet) else parts) + "]"


def _quoted(plain: str) -> str:
    return json.dumps(plain, ensure_ascii=False)
