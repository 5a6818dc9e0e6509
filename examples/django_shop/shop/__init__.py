"""The project. Django imports the Celery app with it, so shared tasks and views use this app."""

from .celery import app as celery_app

__all__ = ("celery_app",)
