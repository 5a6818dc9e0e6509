"""The lock client of a Celery app, and the app's current lock settings.

Invariants: the client is made at the first use, after the fork, and opens its connections then.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from celery.local import Proxy

from redlock.celery.conf import of_conf

if TYPE_CHECKING:
    from celery import Celery

    from redlock.client import Redlock
    from redlock.settings import Settings

_clients: weakref.WeakKeyDictionary[Any, tuple[Settings, Redlock]] = weakref.WeakKeyDictionary()
_settings: weakref.WeakKeyDictionary[Any, tuple[list[Any], Settings]] = weakref.WeakKeyDictionary()
"""The settings of each app, with the configuration's maps at the time of reading."""


def client_for(app: Celery) -> Redlock:
    """The lock client of a Celery app, from the settings `app.conf.redlock_*`, else the environment's `REDLOCK_*`.

    The first call makes the client. After a change of a lock setting, the next call makes a new client. Held leases
    stay with the old client.

    Raises:
        ConfigurationError: A setting is unknown or invalid.
    """
    app = _without_proxy(app)
    return client_of(app, settings_of(app))


def _without_proxy(app: Celery) -> Celery:
    """The app itself for `celery.current_app`, which stands for it and can't be a key of a weak dictionary."""
    return app._get_current_object() if isinstance(app, Proxy) else app  # noqa: SLF001 - Celery's own way


def client_of(app: Celery, settings: Settings) -> Redlock:
    """The client of an app for its current settings."""
    made = _clients.get(app)
    if made is None:
        made = _clients.setdefault(app, (settings, settings.client()))
    elif made[0] is not settings and made[0] != settings:
        made = _clients[app] = (settings, settings.client())
    return made[1]


def settings_of(app: Celery) -> Settings:
    """The current lock settings of a Celery app.

    Raises:
        ConfigurationError: A setting is unknown or invalid.
    """
    app = _without_proxy(app)
    read = _settings.get(app)
    if read is None or read[0] != app.conf.maps:
        # The old settings can hold a password, and error reports can show local variables.
        del read
        settings = of_conf(app.conf)
        changes, *loaded = app.conf.maps
        # A copy of each list, because the user can change the list of the nodes in place.
        copied = {name: list(value) if isinstance(value, list) else value for name, value in changes.items()}
        read = _settings[app] = ([copied, *loaded], settings)
    return read[1]
