"""The peers: what each needs, set up once in an environment of its own, in a folder that git ignores.

Rules: nothing is installed into this project's environment; what can't be set up is left out of the tables and named
with the reason; an environment is remade when what it needs has changed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.process import Program

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
STILL_HELD = ROOT / ".bench"
_FOLDER = ROOT / "benchmarks"


class Kind(NamedTuple):
    """One of the locks that are compared.

    Attributes:
        name: How the tables call it.
        quorum: Whether it locks on all nodes; the others use the first one.
        module: Its Python file in `benchmarks/peers`; empty for what is not Python.
        needs: What pip or npm installs for it.
    """

    name: str
    quorum: bool
    module: str = ""
    needs: tuple[str, ...] = ()


OURS = Kind("ours", quorum=True, module="ours")
BEHIND = Kind("ours, release not waited for", quorum=True, module="ours_async_release")
FLOOR = Kind("floor", quorum=True, module="floor")
FLOOR_BEHIND = Kind("floor, release not waited for", quorum=True, module="floor_async_release")
FLOORS = (FLOOR, FLOOR_BEHIND)
LIMIT = Kind("limit (C)", quorum=True)
NODE = Kind("node-redlock", quorum=True, needs=("redlock@5.0.0-beta.2", "ioredis@5"))
REDLOCK_PY = Kind("redlock-py", quorum=True, module="redlock_py", needs=("redlock-py", "redis[hiredis]"))
PEERS = (
    OURS,
    BEHIND,
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
    """A peer can't be set up; the message says why."""


def prepare(kind: Kind) -> Program:
    """Set up what this peer needs, and how to start it.

    Raises:
        Missing: That can't be done here.
    """
    if kind in {OURS, BEHIND, *FLOORS}:
        return Program((sys.executable, "-m", f"benchmarks.peers.{kind.module}"), ROOT, {})
    if kind is LIMIT:
        return _compiled()
    place = STILL_HELD / kind.name.replace(" ", "-")
    if kind is NODE:
        return _node(kind, place)
    python = place / "bin" / "python"
    if _stale(place, kind.needs):
        print(f"setting up {kind.name} (once)", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *kind.needs])
        _done(place, kind.needs)
    # Last on the path: here `redlock` is what was installed, not this project's.
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "bench.pth").write_text(f"{ROOT}\n")
    return Program((str(python), "-m", f"benchmarks.peers.{kind.module}"), place, {})


def site_packages(kind: Kind) -> Path:
    """Where a Python peer's packages lie."""
    return next((STILL_HELD / kind.name).glob("lib/python*/site-packages"))


def _compiled() -> Program:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler")
    program, source = STILL_HELD / "limit", _FOLDER / "limit.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        STILL_HELD.mkdir(exist_ok=True)
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
