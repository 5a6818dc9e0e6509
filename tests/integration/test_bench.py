"""The benchmarks run: this lock and the limit in C on real nodes, for a moment."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from redis import Redis

from benchmarks import __main__ as command
from benchmarks import against, environment
from benchmarks.bench import Bench, Options, lock_nodes, sixth_server
from benchmarks.environment import ASYNC_RELEASE, FLOORS, LIMIT, OURS, PEERS, Kind, Missing, prepare
from benchmarks.scenarios import asyncio as loop_scenario
from benchmarks.scenarios import hot, uncontended
from benchmarks.survival import __main__ as survival
from benchmarks.survival import locks, outcome, tasks
from benchmarks.survival.outcome import Outcome
from redlock.testing.redis_server import Server
from tests.integration.shell import run_python
from tests.integration.tools import ROOT, raw


def bench_of(out: Path, *kinds: Kind) -> Bench:
    """A harness with short rounds."""
    return Bench(Options(quick=True, rounds=1, out=out), kinds)


def kinds_here() -> list[Kind]:
    """This lock with both kinds of release, and the limit if there is a C compiler."""
    try:
        prepare(LIMIT)
    except Missing:
        return [OURS, ASYNC_RELEASE]
    return [OURS, ASYNC_RELEASE, LIMIT]


def _is_empty(server: Server) -> bool:
    with raw(server) as redis:
        return not redis.keys("account:*")


def test_rounds_end_with_released_locks_for_every_peer(tmp_path: Path) -> None:
    kinds = kinds_here()
    bench = bench_of(tmp_path, *kinds)
    with lock_nodes() as nodes:
        found = uncontended.measure(bench, nodes.urls, rounds=2, seconds=0.1)
        free = [_is_empty(server) for server in nodes.servers]
    assert sum(free) >= 3
    assert not bench.missing
    assert list(found) == [kind.name for kind in kinds]
    for one in found.values():
        assert len(one.rates) == 2
        assert min(one.rates) > 0
    table = uncontended.table("uncontended", "pairs", found)
    assert table.rows[0][3] == table.rows[1][4] == pytest.approx(1.0)
    assert "ours" in table.text()


@pytest.mark.long
def test_the_hot_counter_is_right_and_every_process_is_served(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, OURS)
    with lock_nodes() as nodes, sixth_server() as sixth:
        found = hot.once(bench, OURS, hot.Load(nodes.urls, sixth.url, waiters=2, seconds=0.5))
        alone = hot.once(bench, OURS, hot.Load(nodes.urls, sixth.url, waiters=1, seconds=0.5))
    assert not found.wrong
    assert found.wait_ms
    assert 0 < found.changed <= found.rate
    assert alone.rate > 0
    assert not alone.changed, "it handed the lock to nobody but itself"


def test_a_peer_without_an_environment_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    (pottery,) = (kind for kind in PEERS if kind.name == "pottery")
    with pytest.raises(Missing, match="false: failed"):
        prepare(pottery)


@pytest.mark.parametrize(("part", "new"), [("version", "3.99.0"), ("executable", shutil.which("false"))])
def test_another_python_sets_a_peer_up_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, new: str
) -> None:
    monkeypatch.setattr(environment, "ENVIRONMENTS", tmp_path)
    commands: list[list[str]] = []
    monkeypatch.setattr(environment, "_run", commands.append)
    (pottery,) = (kind for kind in PEERS if kind.name == "pottery")
    (tmp_path / "pottery" / "lib" / "python3" / "site-packages").mkdir(parents=True)
    prepare(pottery)
    prepare(pottery)
    assert len(commands) == 2, "an environment that is up to date was made anew"
    monkeypatch.setattr(sys, part, new)
    prepare(pottery)
    assert commands[2] == [sys.executable, "-m", "venv", "--clear", str(tmp_path / "pottery")]


def _calls(redis: Redis) -> Counter[str]:
    """How often the scripts, and their SET, were called so far."""
    stats = redis.info("commandstats")
    return Counter(
        {name: stats[f"cmdstat_{name}"]["calls"] for name in ("evalsha", "set") if f"cmdstat_{name}" in stats}
    )


@pytest.mark.long
def test_the_floor_sends_the_bytes_of_the_lock(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, OURS, ASYNC_RELEASE, *FLOORS)
    with lock_nodes() as nodes:
        found = uncontended.measure(bench, nodes.urls, rounds=1, seconds=0.1)
        calls = []
        for kind in (OURS, FLOORS[0]):
            with bench.connected(kind, nodes.urls) as process, raw(nodes.servers[0]) as redis:
                before = _calls(redis)
                process.ask("cycle", 30, name="account", names=1, seconds=5, count=7, settle=True)
                calls.append(_calls(redis) - before)
        free = [_is_empty(server) for server in nodes.servers]
    assert sum(free) >= 3
    assert not bench.missing
    assert calls == [Counter(evalsha=14, set=14)] * 2
    table = uncontended.table("uncontended", "pairs", found)
    ratio = list(table.columns).index("x floor")
    assert [row[ratio] == 1 for row in table.rows] == [False, False, True, True]


@pytest.mark.long
def test_tasks_of_one_loop_are_measured_beside_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_scenario, "LOADS", {"1 task": (1, True), "20 tasks, one key": (20, False)})
    with lock_nodes() as nodes:
        found = loop_scenario.measure(bench_of(tmp_path, OURS), nodes.urls, rounds=2, seconds=0.1)
    table = loop_scenario.table(found)
    assert [row[0] for row in table.rows] == ["one thread", "1 task", "20 tasks, one key"]
    assert table.rows[0][3] == pytest.approx(1.0)
    for one in found.values():
        assert len(one.rates) == 2
        assert min(one.rates) > 0


@pytest.mark.long
def test_a_run_writes_its_tables_as_json_and_as_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Bench", lambda options: Bench(options, kinds_here()))
    assert command.main(["--only", "uncontended", "--quick", "--rounds", "1", "--out", str(tmp_path)]) == 0
    (table,) = json.loads((tmp_path / "results.json").read_text())["tables"]
    assert table["scenario"] == "uncontended"
    assert table["rows"][0][0] == "ours"
    assert (tmp_path / "results.svg").read_text().startswith("<svg")


@pytest.mark.long
def test_this_tree_is_measured_beside_another_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(against, "_SECONDS", 0.4)
    assert command.main(["--against", "HEAD", "--quick", "--rounds", "1", "--out", str(tmp_path)]) == 0
    (table,) = json.loads((tmp_path / "results.json").read_text())["tables"]
    assert [row[0] for row in table["rows"]] == [OURS.name, ASYNC_RELEASE.name]
    for row in table["rows"]:
        assert min(row[1:7]) > 0
    assert [len(one["cpu"]) for one in table["raw"].values()] == [1] * 4
    assert "client CPU us/pair" in capsys.readouterr().out


def test_the_other_commit_runs_its_own_package() -> None:
    with against._checked_out("HEAD") as side:
        code = "import redlock, benchmarks.worker as w; print(redlock.__file__, w.__file__)"
        ran = run_python("-c", code, cwd=side.directory, check=True)
        files = [Path(word) for word in ran.stdout.split()]
        assert [file.parents[1] for file in files] == [side.directory] * 2
        assert files[1].read_bytes() == (ROOT / "benchmarks" / "worker.py").read_bytes()
    assert not side.directory.exists()


def test_an_unknown_commit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--against", "no-such", "--out", str(tmp_path)]) == 1
    assert "bench: there is no commit 'no-such' in" in capsys.readouterr().err


def test_an_unknown_scenario_is_refused_with_the_known_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "warm", "--out", str(tmp_path)])
    assert "'warm' is not a scenario; the scenarios are uncontended, hot" in capsys.readouterr().err


def test_every_peer_has_a_program_of_its_own() -> None:
    programs = [(kind.module, *kind.options) for kind in PEERS if kind.module]
    assert len(set(programs)) == len(programs)


@pytest.mark.long
def test_a_partial_survival_run_leaves_the_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "PAGE", tmp_path / "none.md")
    wanted = "emptied,frozen_writer,fenced_writer"
    assert survival.main(["--only", wanted, "--peers", "ours", "--runs", "1", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "survival-locks.json").read_text())["rows"]
    # Without a fence no lock prevents the late write of a frozen holder.
    assert [runs["ours"][0]["survived"] for runs in rows.values()] == [True, False, True]


def test_runs_that_differ_are_never_one_word() -> None:
    slow, fast, lost = (
        Outcome(survived=True, figure=2.0),
        Outcome(survived=True, figure=0.5),
        Outcome(survived=False, how="a | b"),
    )
    assert outcome.cell([slow, fast]) == "yes: 0.50 .. 2.00 s"
    assert outcome.cell([slow, lost, fast]) == "yes in 2 of 3 runs: 0.50 .. 2.00 s; **no** in 1 of 3 runs: a | b"
    assert outcome.brief("a | b at 127.0.0.1:123") == "a / b at a node"
    assert outcome.differing({"is it?": {"x": [slow, fast], "y": [slow, lost]}}) == ["y: is it?"]


def test_the_page_about_peers_has_every_question() -> None:
    page = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    for scenario in (*locks.SCENARIOS, *tasks.SCENARIOS):
        assert f"| {survival.question(scenario)} |" in page, "out of date: run `python -m benchmarks.survival`"


@pytest.mark.long
def test_the_cost_of_the_sql_fence_is_measured(tmp_path: Path) -> None:
    assert command.main(["--only", "fence", "--rounds", "1", "--out", str(tmp_path)]) == 0
    (table,) = json.loads((tmp_path / "results.json").read_text())["tables"]
    names = [row[0] for row in table["rows"]]
    assert names[:2] == ["PostgreSQL, psycopg", "PostgreSQL, SQLAlchemy"]
    assert names[-1] == "SQLite, SQLAlchemy"
    assert all(len(rounds["fenced"]) == len(rounds["plain"]) == 50 for rounds in table["raw"].values())
