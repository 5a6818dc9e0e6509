"""The settings of the example, from environment variables that begin with `COUNTER_`.

The lock's variables begin with `REDLOCK_` (`redlock.settings`). This module checks both before the start.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redlock import ConfigurationError, _setting_files, _validation
from redlock._masking import HIDDEN, mask
from redlock.settings import Settings as LockSettings
from redlock.settings import read

if TYPE_CHECKING:
    from collections.abc import Mapping


_MOST_BYTES = 1e15
_USER = re.compile("[^:]+:.+")
_REDIS = ("redis", "rediss", "unix")
_CELERYS = (*_REDIS, "redis+socket")
_SCHEMES = {"broker_url": (*_CELERYS, "amqp", "amqps"), "result_url": _CELERYS, "store_url": _REDIS}


@dataclasses.dataclass(frozen=True, repr=False)
class Settings:
    """The settings of the example's workers and producers.

    Attributes:
        broker_url: The sixth Redis, database 0; or a RabbitMQ.
        result_url: The sixth Redis, database 1.
        store_url: The store of the counter: the sixth Redis, database 2.
        think: Seconds between the read and the write of an increment; below `time_limit`.
        time_limit: Seconds until a task is killed.
        visibility_timeout: Seconds until an unacknowledged task is delivered again; above `time_limit`.
        log_file: The log of all events.
        log_bytes: The size of the log before its rotation. Five old logs are kept.
        flower_auth: The users of Flower's pages as `name:password`, separated by commas; empty for no password.
    """

    broker_url: str = "redis://127.0.0.1:63790/0"
    result_url: str = "redis://127.0.0.1:63790/1"
    store_url: str = "redis://127.0.0.1:63790/2"
    think: float = 0.0
    time_limit: float = 30.0
    visibility_timeout: float = 120.0
    log_file: str = "logger.log"
    log_bytes: float = 50e6
    flower_auth: str = dataclasses.field(default="", metadata={"is_password": True})

    @property
    def flower_users(self) -> list[str]:
        """The users of Flower. A blank after a comma is no part of a name."""
        return [user.lstrip() for user in self.flower_auth.split(",")] if self.flower_auth else []

    def __repr__(self) -> str:
        shown = dataclasses.asdict(self) | {"flower_auth": HIDDEN if self.flower_auth else ""}
        return mask(f"Settings({shown})")


@_validation.private
def from_environment(environ: Mapping[str, str] = os.environ) -> tuple[Settings, LockSettings]:
    """The example's settings and the lock's.

    Raises:
        ConfigurationError: A setting is invalid; the message names the setting and valid values.
    """
    settings = read(Settings, environ, "COUNTER_")
    shown = {field.name for field in dataclasses.fields(Settings)} - {*_SCHEMES, "flower_auth"}
    files = {name: variable for name in shown if environ.get(variable := f"COUNTER_{name.upper()}_FILE")}
    _setting_files.unshown(files, lambda: _check(settings))
    lock_settings = read(LockSettings, environ, "REDLOCK_")
    lock_settings.client().close()
    return settings, lock_settings


def _check(settings: Settings) -> None:
    _check_urls(settings)
    _validation.number("COUNTER_THINK", settings.think, zero=True)
    for name in ("time_limit", "visibility_timeout"):
        _validation.number(f"COUNTER_{name.upper()}", getattr(settings, name))
    if settings.think >= settings.time_limit:
        raise ConfigurationError(
            f"COUNTER_THINK is {settings.think:g} s; it must be shorter than COUNTER_TIME_LIMIT, "
            f"{settings.time_limit:g} s, or every task is killed"
        )
    if settings.visibility_timeout <= settings.time_limit:
        raise ConfigurationError(
            f"COUNTER_VISIBILITY_TIMEOUT is {settings.visibility_timeout:g} s; it must be longer than "
            f"COUNTER_TIME_LIMIT, {settings.time_limit:g} s, or tasks are delivered again while they run"
        )
    if not 1 <= settings.log_bytes <= _MOST_BYTES:
        raise ConfigurationError(
            f"COUNTER_LOG_BYTES is {settings.log_bytes:g}; it must be a number of bytes, 1 to {_MOST_BYTES:g}"
        )
    if not settings.log_file:
        raise ConfigurationError("COUNTER_LOG_FILE is empty; name a file, such as logger.log")
    if not all(map(_USER.fullmatch, settings.flower_users)):
        raise ConfigurationError("COUNTER_FLOWER_AUTH must be name:password, several with commas between them")


def _check_urls(settings: Settings) -> None:
    for name, schemes in _SCHEMES.items():
        try:
            parts = urlsplit(getattr(settings, name))
            fine = parts.scheme in schemes and (parts.port is None or parts.port > 0)
        except ValueError:
            fine = False
        if not fine:
            servers = "a Redis or a RabbitMQ" if name == "broker_url" else "a Redis"
            right = getattr(Settings, name)
            raise ConfigurationError(f"COUNTER_{name.upper()} must be the address of {servers}, such as {right}")
