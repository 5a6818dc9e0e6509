"""The peers: each is set up once, in its own environment, in a folder that git ignores.

Invariants:
1. Nothing is installed into the environment of this project.
2. A peer that cannot be set up is left out of the tables and named with the reason.
3. A changed list of packages makes the environment anew, and so does another Python. The tables compare locks, not
   Pythons.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.process import Program

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".bench"
_FOLDER = ROOT / "benchmarks"


class Kind(NamedTuple):
    """A lock in the comparison.

    Attributes:
        name: Its name in the tables.
        quorum: True if it locks on all nodes, False if on the first node only.
        module: Its Python file in `benchmarks/peers`; empty for another language.
        needs: The packages that pip or npm installs.
        options: The words after its module on the command line.
    """

    name: str
    quorum: bool
    module: str = ""
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


OURS = Kind("ours", quorum=True, module="ours")
ASYNC_RELEASE = Kind("ours, release not waited for", quorum=True, module="ours", options=("async-release",))
ASYNCIO = Kind("ours, asyncio", quorum=True, module="ours_asyncio")
FLOOR = Kind("floor", quorum=True, module="floor")
FLOOR_ASYNC_RELEASE = Kind("floor, release not waited for", quorum=True, module="floor", options=("async-release",))
FLOORS = (FLOOR, FLOOR_ASYNC_RELEASE)
LIMIT = Kind("limit (C)", quorum=True)
NODE = Kind("node-redlock", quorum=True, needs=("redlock@5.0.0-beta.2", "ioredis@5"))
REDLOCK_PY = Kind("redlock-py", quorum=True, module="redlock_py", needs=("redlock-py", "redis[hiredis]"))
PEERS = (
    OURS,
    ASYNC_RELEASE,
    *FLOORS,
    LIMIT,
    NODE,
    REDLOCK_PY,
    Kind("redlock-ng", quorum=True, module="redlock_ng", needs=("redlock-ng", "redis[hiredis]")),
    Kind("pottery", quorum=True, module="pottery", needs=("pottery", "redis[hiredis]")),
    Kind("redis-py Lock", quorum=False, module="redis_py", needs=("redis[hiredis]>=8.1",)),
    Kind("python-redis-lock", quorum=False, module="python_redis_lock", needs=("python-redis-lock", "redis[hiredis]")),
)


class Missing(Exception):
    """A peer cannot be set up; the message has the reason."""


def prepare(kind: Kind) -> Program:
    """Set up a peer, and return its program.

    Raises:
        Missing: The set-up failed.
    """
    if kind.module and not kind.needs:
        return Program((sys.executable, "-m", f"benchmarks.peers.{kind.module}", *kind.options), ROOT, {})
    if kind is LIMIT:
        return _compiled()
    place = ENVIRONMENTS / kind.name.replace(" ", "-")
    if kind is NODE:
        return _node(kind, place)
    python = place / "bin" / "python"
    needs = (sys.version, str(Path(sys.executable).resolve()), *kind.needs)
    if _stale(place, needs):
        print(f"setting up {kind.name} (once)", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *kind.needs])
        _done(place, needs)
    # Last on the path, so that `redlock` is the installed package and not this project's.
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "bench.pth").write_text(f"{ROOT}\n")
    return Program((str(python), "-m", f"benchmarks.peers.{kind.module}"), place, {})


def site_packages(kind: Kind) -> Path:
    """The folder of a Python peer's packages."""
    return next((ENVIRONMENTS / kind.name).glob("lib/python*/site-packages"))


def _compiled() -> Program:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler")
    program, source = ENVIRONMENTS / "limit", _FOLDER / "limit.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        ENVIRONMENTS.mkdir(exist_ok=True)
        _run([compiler, "-O2", "-o", str(program), str(source)])
    return Program((str(program),), ROOT, {})


def _node(kind: Kind, place: Path) -> Program:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise Missing("no npm")
    if _stale(place, kind.needs):
        print(f"setting up {kind.name} (once)", file=sys.stderr)
        place.mkdir(parents=True, exist_ok=True)
        _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(place), *kind.needs])
        _done(place, kind.needs)
    script = str(_FOLDER / "peers" / "node_redlock.cjs")
    return Program((node, script), place, {"NODE_PATH": str(place / "node_modules")})


def _stale(place: Path, needs: Sequence[str]) -> bool:
    note = place / "needs"
    return not note.exists() or note.read_text() != "\n".join(needs)


def _done(place: Path, needs: Sequence[str]) -> None:
    (place / "needs").write_text("\n".join(needs))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Missing(f"{Path(command[0]).name}: {last[0] if last else 'failed'}")
