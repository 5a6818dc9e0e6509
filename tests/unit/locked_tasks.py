"""Classes of tasks with a lock."""

from __future__ import annotations

from typing import Any

from celery import Task

from redlock.celery import locked


def called_class(**options: Any) -> type[Task]:  # noqa: ANN401 - as `@locked` takes them
    """A base class of tasks with the lock round all of them."""

    class Called(Task):  # type: ignore[misc]  # Celery is untyped
        abstract = True

        @locked("x", **options)
        def __call__(self, *args: object, **kwargs: object) -> object:
            return self.run(*args, **kwargs)

    return Called
