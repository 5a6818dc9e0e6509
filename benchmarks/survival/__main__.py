"""`python -m benchmarks.survival`: every scenario for every peer; prints the tables, writes JSON and docs/peers.md.

Invariants:
1. A single command sets everything up. A peer that cannot be set up is named with the reason.
2. A figure that was not measured is marked in its cell.
3. docs/peers.md changes between its markers only, and a table changes only if the table was measured completely.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.environment import ENVIRONMENTS, ROOT, Missing, prepare
from benchmarks.process import PeerFailed
from benchmarks.report import machine
from benchmarks.survival import cluster, locks, tasks
from benchmarks.survival.outcome import Outcome, brief, cell, differing, markdown
from benchmarks.survival.workers import LOCKS, Refused, fixture
from redlock import RedlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from benchmarks.environment import Kind

    Rows = dict[str, dict[str, list[Outcome]]]

PAGE = ROOT / "docs" / "peers.md"
_PACKAGES = ("redlock-py", "redlock-ng", "pottery", "celery-once", "celery-singleton")


class Plan(NamedTuple):
    """A table.

    Attributes:
        name: Its name in the markers of the page and in the name of the JSON file.
        kinds: The peers.
        scenarios: The lines.
        once: Runs one scenario of one peer.
    """

    name: str
    kinds: Sequence[Kind]
    scenarios: Sequence[Callable[..., Outcome]]
    once: Callable[..., Outcome]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios of the command line, and return the exit status."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    measured = 0
    for plan in _plans(options.out):
        missing: dict[str, str] = {}
        kinds = _there([kind for kind in plan.kinds if kind.name in (options.peers or [kind.name])], missing)
        scenarios = [one for one in plan.scenarios if one.__name__ in (options.only or [one.__name__])]
        if kinds and scenarios:
            rows = _rows(plan._replace(kinds=kinds, scenarios=scenarios), options.runs)
            text = _text(kinds, rows, missing, options.runs)
            print(f"{text}\n", flush=True)
            (options.out / f"survival-{plan.name}.json").write_text(json.dumps(_results(rows, missing), indent=1))
            if len(kinds) == len(plan.kinds) and len(scenarios) == len(plan.scenarios):
                _write_page(PAGE, plan.name, text)
            measured += 1
    return 0 if measured else 1


def _rows(plan: Plan, runs: int) -> Rows:
    rows: Rows = {question(scenario): {kind.name: [] for kind in plan.kinds} for scenario in plan.scenarios}
    for number, scenario, kind in itertools.product(range(runs), plan.scenarios, plan.kinds):
        outcome = _guarded(plan.once, kind, scenario)
        print(f"  run {number + 1}, {scenario.__name__}, {kind.name}: {cell([outcome])}", file=sys.stderr, flush=True)
        rows[question(scenario)][kind.name].append(outcome)
    return rows


def _plans(out: Path) -> list[Plan]:
    def lock(kind: Kind, scenario: Callable[..., Outcome]) -> Outcome:
        with fixture(kind, out) as place:
            return scenario(place)

    def task(kind: Kind, scenario: Callable[..., Outcome]) -> Outcome:
        return scenario(cluster.ClusterFixture(kind, out))

    return [Plan("locks", LOCKS, locks.SCENARIOS, lock), Plan("tasks", cluster.KINDS, tasks.SCENARIOS, task)]


def _guarded(once: Callable[..., Outcome], kind: Kind, scenario: Callable[..., Outcome]) -> Outcome:
    try:
        return once(kind, scenario)
    except (Refused, PeerFailed, RedlockError, OSError) as why:
        return Outcome(None, f"{type(why).__name__}: {brief(why)}")


def _there(kinds: Sequence[Kind], missing: dict[str, str]) -> list[Kind]:
    found = []
    for kind in kinds:
        try:
            prepare(kind)
        except Missing as why:
            missing[kind.name] = str(why)
        else:
            found.append(kind)
    return found


def question(scenario: object) -> str:
    """The question of a scenario: the first line of its docstring."""
    return (scenario.__doc__ or "").partition("\n")[0]


def _versions(peers: Container[str]) -> list[str]:
    """The installed versions of these peers."""
    found = [
        one.name.removesuffix(".dist-info").replace("_", "-")
        for name in _PACKAGES
        for one in (ENVIRONMENTS / name).glob("lib/python*/site-packages/*.dist-info")
        if name in peers and one.name.lower().replace("_", "-").startswith(f"{name}-")
    ]
    package = ENVIRONMENTS / "node-redlock" / "node_modules" / "redlock" / "package.json"
    if "node-redlock" in peers and package.exists():
        found.append(f"node-redlock-{json.loads(package.read_text())['version'].removeprefix('v')}")
    return sorted(found)


def _text(kinds: Sequence[Kind], rows: Rows, missing: dict[str, str], runs: int) -> str:
    peers = [kind.name for kind in kinds]
    day = time.strftime("%Y-%m-%d", time.gmtime())
    parts = [f"{', '.join([day, f'{runs} run' + 's' * (runs > 1), *_versions(peers)])}."]
    parts += [f"Not measured: {name}: {why}." for name, why in missing.items()]
    parts.append(markdown(rows, peers))
    different = differing(rows)
    if different:
        parts += ["The runs differ in:", "\n".join(f"- {one}" for one in different)]
    elif runs > 1:
        parts.append("The runs agree on every yes and no.")
    return "\n\n".join(parts)


def _results(rows: Rows, missing: dict[str, str]) -> dict[str, object]:
    return {
        "machine": machine(),
        "versions": _versions(list(rows[next(iter(rows))])),
        "not measured": missing,
        "rows": {asked: {peer: [one._asdict() for one in runs] for peer, runs in found.items()}
                 for asked, found in rows.items()},
    }  # fmt: skip


def _write_page(page: Path, name: str, text: str) -> None:
    """Put a table between its markers."""
    begin, end = f"<!-- survival: {name}: begin -->", f"<!-- survival: {name}: end -->"
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(old):
        raise SystemExit(f"{page} has no {begin} ... {end}; put these two lines where the table belongs")
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", old), encoding="utf-8")


def _known(names: Sequence[str]) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of these: {', '.join(names)}")
        return text.split(",")

    return check


def _parser() -> argparse.ArgumentParser:
    scenarios = [one.__name__ for one in (*locks.SCENARIOS, *tasks.SCENARIOS)]
    peers = list(dict.fromkeys(kind.name for kind in (*LOCKS, *cluster.KINDS)))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.survival", description="The same faults for every lock."
    )
    parser.add_argument("--only", type=_known(scenarios), metavar="A,B", help=f"of {','.join(scenarios)}")
    parser.add_argument("--peers", type=_known(peers), metavar="A,B", help=f"of {','.join(peers)}")
    parser.add_argument(
        "--runs", type=int, choices=range(1, 21), default=2, metavar="N", help="number of runs, 1 to 20"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench-out", metavar="DIR", help="directory of JSON and logs"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
