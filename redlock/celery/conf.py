"""Celery's configuration as the lock's settings, in every form in which Celery takes settings.

    app.conf.redlock_ttl = 5                                               attributes, modules, objects
    app.config_from_object("django.conf:settings", namespace="CELERY")     CELERY_REDLOCK_TTL
    REDLOCK_TTL = 5                                                        in capitals, in a module of settings
    CELERY_REDLOCK_TTL = 5                                                 as Celery's old names, without a namespace

Invariants: what Celery would find first wins: later changes of `app.conf`, then the configuration's object; and within
one of these a name with the namespace. What none of them says comes from the environment. Nothing is written back:
Flower and `celery inspect conf` show what is in `app.conf`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redlock.errors import ConfigurationError
from redlock.settings import ENVIRONMENT, IN_CONF, Settings, TaskLockEntry, read, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OURS = "redlock_"
_OLD = "celery_"
"""The namespace of Celery's old names, which it knows without being told."""


def of_conf(conf: Mapping[str, Any]) -> Settings:
    """The settings of a Celery app, from its configuration, else the environment.

    Raises:
        ConfigurationError: One of them is not known or no good.
    """
    # Celery reads its configuration when it is first looked at, and has its parts then.
    next(iter(conf), None)
    namespace = (getattr(conf, "prefix", None) or _OLD).lower()
    settings = read(Settings, os.environ, ENVIRONMENT)
    for source in reversed(getattr(conf, "maps", [conf])):
        for head in (_OURS, namespace + _OURS):
            settings = resolve(Settings, _entries(source, head), settings)
    return settings


def find_app(name: str) -> Any:  # noqa: ANN401 - Celery is untyped
    """The Celery app of this name, as `celery -A` finds it.

    Raises:
        ConfigurationError: There is none, or it can't be imported; or Celery is not installed.
    """
    try:
        from celery.app.utils import find_app as found  # noqa: PLC0415 - the command line works without Celery
    except ImportError:
        raise ConfigurationError("Celery is not installed here; `pip install 'celery-redlock[celery]'`") from None
    sys.path.insert(0, str(Path.cwd()))
    reason = ""
    try:
        return found(name)
    except Exception as error:  # noqa: BLE001 - importing the app runs the user's code
        reason = f"{type(error).__name__}: {error}"
    # Not inside the handler: what the app's code says may hold a password, which only the message is rid of.
    raise ConfigurationError(f"the Celery app {name!r} can't be imported: {reason}")


def _entries(source: Mapping[str, Any], head: str) -> Iterator[TaskLockEntry]:
    for name in list(source):
        if isinstance(name, str) and name.lower().startswith(head):
            yield TaskLockEntry(name, name[: len(head)], source[name], IN_CONF)
