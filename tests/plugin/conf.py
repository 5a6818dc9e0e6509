"""The `conftest.py` of the project: a Celery app in memory, and a Django database in memory without pytest-django."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.conf import settings
from django.test.utils import setup_databases, setup_test_environment, teardown_databases, teardown_test_environment

from redlock.testing import LockNodes

if TYPE_CHECKING:
    from celery import Celery

pytest_plugins = ["celery.contrib.pytest"]


def pytest_configure() -> None:
    apps = ["django.contrib.contenttypes", "django.contrib.auth", "redlock.django"]
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(INSTALLED_APPS=apps, DATABASES={"default": database}, USE_TZ=True)
    django.setup()


if importlib.util.find_spec("pytest_django") is None:

    @pytest.fixture(scope="session", autouse=True)
    def _databases() -> Iterator[None]:
        setup_test_environment()
        made = setup_databases(verbosity=0, interactive=False)
        yield
        teardown_databases(made, verbosity=0)
        teardown_test_environment()


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    return {"broker_url": "memory://", "result_backend": "cache+memory://"}


@pytest.fixture
def celery_app(celery_app: Celery, redlock_nodes: LockNodes) -> Celery:
    celery_app.conf.redlock_nodes = redlock_nodes.urls
    return celery_app
