"""The app, whose start registers the system checks."""

from django.apps import AppConfig
from django.core.checks import register

from redlock.django.checks import check_settings


class RedlockConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """The lock of the project's Celery app."""

    name = "redlock.django"
    label = "redlock"
    verbose_name = "celery-redlock"

    def ready(self) -> None:
        """Register the checks."""
        register(check_settings, "redlock")
