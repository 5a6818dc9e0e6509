"""A Django app: system checks of the lock's settings, and `manage.py redlock status`.

    INSTALLED_APPS = [..., "redlock.django"]

The settings are those of the project's Celery app. The fence for Django's databases is `redlock.fencing.django`.
"""

from redlock import _installation  # noqa: F401 - the check

__all__: list[str] = []
