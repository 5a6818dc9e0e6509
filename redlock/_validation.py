"""Checks of all input before any command is sent. Every message gives the value, the fault and a valid form."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from redlock import _escaping
from redlock._core.votes import drift_ms
from redlock._masking import mask_input, quoted
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.commands import Names

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_NAME = 1_024
LONGEST_SECONDS = 1_000_000_000
LARGEST_TOKEN = 2**63 - 1
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc."""
_BETWEEN = re.compile(r"[,\s]+")


def number(what: str, value: object, *, zero: bool = False) -> float:
    """A finite number of seconds, greater than 0, or 0 too with `zero`."""
    right = "seconds as a number, 0 or more" if zero else "seconds as a number greater than 0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{what} is {quoted(value)}; it must be {right}")
    if not 0 <= value <= LONGEST_SECONDS or (value == 0 and not zero):
        raise ConfigurationError(f"{what} is {quoted(value)}; it must be {right}, and at most {LONGEST_SECONDS:,}")
    return float(value)


def count(what: str, value: object, *, least: int = 0, most: int | None = None) -> int:
    """A whole number: `least` or more, and `most` at most."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= (value if most is None else most):
        right = f", {least} or more" if most is None else f" from {least} to {most:,}"
        raise ConfigurationError(f"{what} is {quoted(value)}; it must be a whole number{right}")
    return int(value)


def choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of these."""
    if value not in choices:
        right = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ConfigurationError(f"{what} is {quoted(value, 40)}; it must be {right}")


def file_name(what: str, path: str, suffix: str = "") -> None:
    """Refuse a path that can't name a file, or has another suffix. An empty text is no file."""
    if not isinstance(path, str):
        raise ConfigurationError(f"{what} is {quoted(path, 40)}; it must be the name of a file, as text")
    try:
        is_name = bool(Path(path).name) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if path and not (is_name and path.endswith(suffix)):
        right = "must be the name of a file" + (f" that ends in {suffix}" if suffix else "")
        raise ConfigurationError(f"{what} is {quoted(path, 40)}; it {right}")


def flag(what: str, value: object) -> bool:
    """True or False. Python takes most other values for True, also the text `no`."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is {quoted(value)}; it must be True or False")
    return value


def acquire_timeout(value: float | None, what: str = "blocking_timeout") -> float | None:
    """Seconds to wait, 0 or more; None for no limit, also for infinity and more than 30 years."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and value > LONGEST_SECONDS):
        return None
    return number(what, value, zero=True)


def ttl_ms(value: object, *, max_ttl_ms: int, node_timeout_ms: int) -> int:
    """A TTL in milliseconds that is longer than two node timeouts and the drift allowance together."""
    milliseconds = int(number("ttl", value) * 1000)
    least = least_ttl_ms(node_timeout_ms)
    if milliseconds < least:
        raise ConfigurationError(
            f"ttl is {value!r} s, too short: two node timeouts of {node_timeout_ms / 1000:g} s and the drift "
            f"allowance leave nothing of it; it must be at least {least / 1000:g} s, or node_timeout shorter"
        )
    if milliseconds > max_ttl_ms:
        raise ConfigurationError(
            f"ttl is {value!r} s, longer than max_ttl, {max_ttl_ms / 1000:g} s; "
            "shorten it, or raise max_ttl for all clients"
        )
    return milliseconds


def node_timeout_ms(value: object) -> int:
    """A node timeout in whole milliseconds, at least 1."""
    milliseconds = int(number("node_timeout", value) * 1000)
    if not milliseconds:
        raise ConfigurationError(f"node_timeout is {quoted(value)}; it must be at least 0.001 s, such as 0.1")
    return milliseconds


def max_hold_ms(value: object) -> int | None:
    """The seconds after which renewal stops, in whole milliseconds; None for no limit."""
    return None if value is None else int(number("max_hold", value) * 1000)


def least_ttl_ms(node_timeout_ms: int) -> int:
    """The shortest TTL that is longer than two node timeouts and the drift allowance together."""
    least = (2 * node_timeout_ms + 3) * 100 // 99 - 1
    while least < 2 * node_timeout_ms + drift_ms(least) + 1:
        least += 1
    return least


def extension_ms(seconds: object, *, max_ttl_ms: int) -> int:
    """The new time of a lease from now, in milliseconds, at most `max_ttl`."""
    milliseconds = int(number("the time of an extension", seconds) * 1000)
    if milliseconds > max_ttl_ms:
        raise ConfigurationError(
            f"the lease would last {milliseconds / 1000:g} s from now, longer than max_ttl, {max_ttl_ms / 1000:g} s; "
            "ask for less, or raise max_ttl for all clients"
        )
    return milliseconds


def resource(name: object) -> str:
    """A name that can be locked: text, 1 to 1,024 bytes, no invisible characters."""
    return _text("resource name", name, empty=False)


def resources(names: object) -> Names:
    """The names from a name or a list of names, sorted and without duplicates."""
    if type(names) is str:
        return _known(names)
    if type(names) is tuple and len(names) == 1 and type(names[0]) is str:
        return _known(names[0])
    if isinstance(names, list | tuple | set | frozenset):
        if not names:
            raise ConfigurationError("the list of resource names is empty; name at least one")
        return tuple(sorted({resource(name) for name in names}))
    return (resource(names),)


@functools.lru_cache(1_024)
def _known(name: str) -> Names:
    return (resource(name),)


def prefix(name: object) -> str:
    """The text before every resource name; may be empty."""
    return _text("prefix", name, empty=True)


def operation(op_id: object) -> str:
    """The id of an operation in the fenced store: text of 1 to 1,024 bytes."""
    if not op_id or not isinstance(op_id, str):
        raise ConfigurationError(
            f"operation id is {quoted(op_id)}; it must be text that names the operation, such as a task id"
        )
    plain = text("operation id", op_id)
    _refuse_size("operation id", plain)
    return plain


def fence(token: object) -> int:
    """A fencing token: a whole number from 1 to 2^63 - 1."""
    if isinstance(token, bool) or not isinstance(token, int) or not 1 <= token <= LARGEST_TOKEN:
        raise ConfigurationError(
            f"fencing token {quoted(token)} cannot be used; a token is a whole number from 1 to {LARGEST_TOKEN}"
        )
    # A member of an enumeration of numbers would be sent as its name.
    return int(token)


def is_utf8(given: str) -> bool:
    """Whether a text has a form in UTF-8. Other bytes of the environment become halves of pairs, which have none."""
    return given.isascii() or given == given.encode(errors="replace").decode()


def _refuse_size(what: str, given: str) -> None:
    """Refuse a text with more bytes than a name may have, or without a form in UTF-8."""
    if not is_utf8(given):
        raise ConfigurationError(f"{what} {quoted(given)} holds half a surrogate pair, which is no text")
    size = len(given.encode())
    if size > LONGEST_NAME:
        raise ConfigurationError(f"{what} {quoted(given, 22)}... has {size} bytes; {LONGEST_NAME} are the most")


def text(what: str, value: object) -> str:
    """Text, as a plain `str`.

    A subclass can change what formatting shows: a member of `class Name(str, Enum)` shows its own name in a key that is
    formatted, and its value in a key that is concatenated.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is {type(value).__name__} {quoted(value)}; it must be text (str)")
    return str.__str__(value)


def _text(what: str, given: object, *, empty: bool) -> str:
    name = text(what, given)
    if not name and not empty:
        raise ConfigurationError(f"{what} is empty; give the thing that is locked a name, such as 'account:42'")
    _refuse_size(what, name)
    if _CONTROL.search(name):
        raise ConfigurationError(
            f"{what} {quoted(name)} holds a control character, such as a line break; "
            "those are kept for the lock's own keys"
        )
    hidden = next(filter(_escaping.is_invisible, name), "") if not name.isascii() else ""
    if hidden:
        raise ConfigurationError(
            f"{what} {_escaping.escape(name):.60} holds U+{ord(hidden):04X}, an invisible character; "
            "names that look equal must be equal"
        )
    return name


def own_code(fault: str, call: Callable[[], T]) -> T:
    """The result of a call that runs the user's own code, such as an import.

    Raises:
        ConfigurationError: That code failed; the message has this fault and the error in one line.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code can raise anything, and can call sys.exit
        reason = f"{type(error).__name__}: {error}"
    # Not inside the handler: the error and the source in its traceback may contain a password. A message is masked.
    raise ConfigurationError(mask_input(f"{fault}: {reason}"))


def private(function: Callable[P, T]) -> Callable[P, T]:
    """Let a `ConfigurationError` of this function show nothing of its frames.

    Error reports can have the local variables of each frame. Here these are the environment, addresses and passwords.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ConfigurationError as error:
            problem = error.with_traceback(None)
        finally:
            del args, kwargs
        try:
            raise problem
        finally:
            # The name would keep the error alive until a garbage collection.
            del problem

    return call


def split(nodes: str) -> list[str]:
    """The addresses in one text."""
    return [part for part in _BETWEEN.split(nodes) if part]


def node_list(nodes: object) -> Sequence[str]:
    """The nodes' addresses: a sequence of text, or one text with commas, blanks or line breaks between them."""
    right = "a list of addresses such as 'redis://127.0.0.1:63791', or one text with commas between them"
    # No message repeats the value: an address may hold a password.
    if isinstance(nodes, str):
        nodes = split(nodes)
    if not isinstance(nodes, list | tuple):
        raise ConfigurationError(f"nodes is {type(nodes).__name__}; it must be {right}")
    for node in nodes:
        if not isinstance(node, str):
            raise ConfigurationError(f"nodes holds {type(node).__name__}; each address must be text (str)")
    if not nodes:
        raise ConfigurationError("the list of nodes is empty; give five addresses such as 'redis://127.0.0.1:63791'")
    return [text("a node address", node) for node in nodes]


def tolerance(nodes: int) -> str | None:
    """The warning for a number of nodes that works but is not sensible; None for a sensible number."""
    spare = (nodes - 1) // 2
    if nodes == 1:
        return "one lock node: no failure is tolerated; five tolerate two"
    if nodes % 2 == 0:
        failures = "1 failure" if spare == 1 else f"{spare} failures"
        return f"{nodes} lock nodes tolerate {failures}, no more than {nodes - 1} do; use an odd number"
    return None
