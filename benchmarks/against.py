"""This working tree beside another commit: `make bench ARGS="--against REF"`.

Invariants:
1. Each side runs its own package, and both run the peers of this tree, which use the public interface only.
2. Each side has nodes of its own, so that a changed configuration fingerprint does no harm.
3. The sides alternate inside each round, and the side that begins alternates too. Ratios are formed inside a round.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.bench import TTL
from benchmarks.environment import ASYNC_RELEASE, OURS, ROOT, prepare
from benchmarks.process import PeerFailed, Process
from benchmarks.report import Figures, Table, median, micros, ratio, spread
from benchmarks.scenarios.uncontended import once
from redlock.testing.redis_server import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.environment import Kind

_NODES = 5
_ROUNDS = 10
_SECONDS = 2.0


class NoCommit(Exception):
    """The commit does not exist, or git is missing; the message has the reason."""


class Side(NamedTuple):
    """A side of the comparison.

    Attributes:
        name: The name in the table.
        directory: The directory of its package and its peers.
    """

    name: str
    directory: Path


def run(bench: Bench, ref: str) -> Table:
    """Measure both sides in turns.

    Args:
        bench: The harness.
        ref: A commit, tag or branch of this repository.

    Raises:
        NoCommit: The commit does not exist.
        PeerFailed: The measurement of a side failed.
    """
    found: dict[tuple[Kind, int], Figures] = {}
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(_checked_out(ref))
        sides = (Side("this tree", ROOT), other)
        running: dict[tuple[Kind, int], Process] = {}
        for place, side in enumerate(sides):
            urls = stack.enter_context(_nodes(side))
            for kind in (OURS, ASYNC_RELEASE):
                program = prepare(kind)._replace(directory=side.directory)
                process = stack.enter_context(Process(program, bench.options.out / "peers.log"))
                process.ask("connect", urls=urls, ttl=TTL)
                running[kind, place] = process
                found[kind, place] = Figures()
        for number in bench.each(bench.rounds(_ROUNDS)):
            for kind in (OURS, ASYNC_RELEASE):
                for place in (0, 1) if number % 2 == 0 else (1, 0):
                    once(running[kind, place], found[kind, place], bench.seconds(_SECONDS))
    return _table(other.name, found)


def _table(other: str, found: dict[tuple[Kind, int], Figures]) -> Table:
    rows = []
    for kind in (OURS, ASYNC_RELEASE):
        this, that = found[kind, 0], found[kind, 1]
        cpu = [one / two for one, two in zip(this.cpu, that.cpu, strict=True)]
        rows.append([
            kind.name, median(this.rates), median(that.rates), ratio(this.rates, that.rates),
            micros(this.cpu), micros(that.cpu), ratio(this.cpu, that.cpu), spread(cpu),
        ])  # fmt: skip
    columns = ("", "pairs/s", f"{other}", "x", "client CPU us/pair", f"{other}", "x", "min .. max")
    raw = {f"{kind.name}, {'other' if place else 'this'}": one.raw() for (kind, place), one in found.items()}
    title = f"this tree relative to {other}; a ratio is the median of the rounds"
    return Table("against", title, columns, rows, raw=raw)


@contextlib.contextmanager
def _checked_out(ref: str) -> Iterator[Side]:
    sha = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if not sha:
        raise NoCommit(f"there is no commit {ref!r} in {ROOT}")
    name = sha.decode()[:8]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        directory = Path(scratch)
        package = _git("archive", "--format=zip", sha.decode().strip(), "redlock")
        with zipfile.ZipFile(io.BytesIO(package)) as files:
            files.extractall(directory)
        shutil.copytree(ROOT / "benchmarks", directory / "benchmarks")
        yield Side(name, directory)


def _git(*arguments: str) -> bytes:
    git = shutil.which("git")
    if git is None:
        raise NoCommit("no git")
    return subprocess.run((git, *arguments), cwd=ROOT, capture_output=True, check=False).stdout


@contextlib.contextmanager
def _nodes(side: Side) -> Iterator[list[str]]:
    """Nodes for one side."""
    with contextlib.ExitStack() as stack:
        servers = [Server(free_port()) for _ in range(_NODES)]
        for server in servers:
            stack.callback(server.stop)
            server.start()
        urls = [server.url for server in servers]
        # Each side runs its own command, because the record of a new node differs between versions.
        init = (sys.executable, "-m", "redlock", "init", "--yes", "--nodes", ",".join(urls))
        done = subprocess.run(init, cwd=side.directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerFailed(f"{side.name}: redlock init: {done.stderr.strip()}")
        yield urls
