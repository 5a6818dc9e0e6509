"""`redlock.fencing.django`: a Django project runs its own tests of the fence, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.integration.databases import postgresql
from tests.integration.tools import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = ROOT / "tests" / "integration" / "apps" / "django_fence.py"


def run(databases: dict[str, Any]) -> str:
    """Run the project's tests; they have to pass."""
    done = subprocess.run(
        [sys.executable, str(PROJECT), json.dumps(databases)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_a_project_on_sqlite_is_fenced(tmp_path: Path) -> None:
    name = str(tmp_path / "data")
    engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": {"timeout": 20}, "TEST": {"NAME": name}}
    assert "Ran 11 tests" in run({"default": engine})


def test_a_project_on_postgresql_is_fenced() -> None:
    with postgresql() as address:
        host = address.partition("host=")[2]
        engine = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": host}
        assert "Ran 11 tests" in run({"default": engine})
