"""`redlock.fencing.django`: a Django project runs its own tests of the fence, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shell import run_python
from tests.integration.tools import ROOT

TESTS = {"django_fence.py": 27, "django_fence_blocks.py": 13}
PROJECT = ROOT / "tests" / "integration" / "apps"


def check(default: dict[str, Any]) -> None:
    """Run the project's tests with this database, with a replica and another database beside it; they have to pass."""
    name = f"{default['NAME']}_other"
    other = default | {"NAME": name} | ({"TEST": {"NAME": name}} if "TEST" in default else {})
    for file, tests in TESTS.items():
        databases = json.dumps({"default": default, "replica": default, "other": other})
        done = run_python(str(PROJECT / file), databases, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=1_000)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Ran {tests} tests" in done.stderr


@pytest.mark.long
def test_a_project_on_sqlite_is_fenced(tmp_path: Path) -> None:
    name = str(tmp_path / "data")
    engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": {"timeout": 20}, "TEST": {"NAME": name}}
    check(engine)


def test_a_project_on_postgresql_is_fenced(pg_address: str) -> None:
    host = pg_address.partition("host=")[2]
    check({"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": host})


@pytest.mark.long
def test_a_project_on_mariadb_is_fenced(maria_socket: str) -> None:
    """The driver is PyMySQL, as mysqlclient needs a compiler and the headers of the server."""
    check({"ENGINE": "django.db.backends.mysql", "NAME": "project", "USER": "root", "HOST": maria_socket})
