"""The page *Locks* in Flower. `add_page` adds the page to the Flower of this process."""

from redlock.celery.flower.page import add_page

__all__ = ["add_page"]
