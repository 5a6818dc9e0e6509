"""System checks: `manage.py check` and each start of the project report wrong lock settings."""

from __future__ import annotations

from typing import Any

from celery import current_app
from django.core import checks

from redlock.celery.client import settings_of
from redlock.errors import ConfigurationError


def check_settings(**_: Any) -> list[checks.CheckMessage]:  # noqa: ANN401 - Django passes what it likes
    """An error for an unknown or invalid setting of the project's Celery app."""
    try:
        settings_of(current_app).client().close()
    except ConfigurationError as error:
        return [checks.Error(str(error), hint="docs/settings.md has all settings of the lock.", id="redlock.E001")]
    return []
