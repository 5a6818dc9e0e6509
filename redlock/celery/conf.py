"""Reads the lock's settings from Celery's configuration, in every form that Celery accepts.

- `app.conf.redlock_ttl = 5` is an attribute; modules and objects have the same name.
- `CELERY_REDLOCK_TTL = 5` is the name under `app.config_from_object("django.conf:settings", namespace="CELERY")`, and
  also, without a namespace, in the style of Celery's old names.
- `REDLOCK_TTL = 5` is the name in capitals, in a module of settings.

Invariants:
1. The order is Celery's: later changes of `app.conf`, then the configuration object, then the environment.
2. Within a source, a name with the namespace wins.
3. Nothing is written back: Flower and `celery inspect conf` show all of `app.conf`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery.app import utils

from redlock import _validation
from redlock.settings import ENVIRONMENT, IN_CONF, SettingEntry, Settings, read, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OURS = "redlock_"
_OLD = "celery_"
"""The namespace of Celery's old names. Celery reads these without a configured namespace."""


@_validation.private
def of_conf(conf: Mapping[str, Any]) -> Settings:
    """The settings of a Celery app, from its configuration, else the environment.

    Raises:
        ConfigurationError: A setting is unknown or invalid.
    """
    # Celery loads its configuration at the first access. `maps` is complete only after that.
    next(iter(conf), None)
    namespace = (getattr(conf, "prefix", None) or _OLD).lower()
    settings = read(Settings, os.environ, ENVIRONMENT)
    for source in reversed(getattr(conf, "maps", [conf])):
        for head in (_OURS, namespace + _OURS):
            settings = resolve(Settings, _entries(source, head), settings)
    return settings


def find_app(name: str) -> Any:
    """The Celery app of this name, as `celery -A` finds it.

    Raises:
        ConfigurationError: The app is missing or can't be imported.
    """
    sys.path.insert(0, str(Path.cwd()))
    app = _validation.own_code(f"the Celery app {name!r} can't be imported", lambda: utils.find_app(name))
    fault = f"the configuration of the Celery app {name!r} can't be loaded"
    _validation.own_code(fault, lambda: next(iter(app.conf), None))
    return app


def _entries(source: Mapping[str, Any], head: str) -> Iterator[SettingEntry]:
    for name in list(source):
        if isinstance(name, str) and name.lower().startswith(head):
            yield SettingEntry(name, name[: len(head)], source[name], IN_CONF)
