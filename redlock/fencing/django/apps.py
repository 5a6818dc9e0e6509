"""The Django app: a migration creates the two tables of the fence."""

from django.apps import AppConfig


class RedlockFencingConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Named so that no app of a project collides with it."""

    name = "redlock.fencing.django"
    label = "redlock_fencing"
    verbose_name = "Fencing tokens"
    default_auto_field = "django.db.models.BigAutoField"
