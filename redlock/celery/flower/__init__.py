"""The page *Locks* in Flower."""

from redlock.celery.flower.page import add_page

__all__ = ["add_page"]
