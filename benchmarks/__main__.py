"""`make bench`, or `python -m benchmarks`: measures, prints tables, writes results.json and results.svg.

Invariants:
1. A single command sets everything up.
2. A failed scenario is named and does not end the others. The exit status is 0 only if all scenarios ran.
3. A missed goal is shown and does not change the exit status, because the load of the machine can cause it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import against, goals, plot
from benchmarks.bench import Bench, Options
from benchmarks.environment import ROOT
from benchmarks.process import PeerFailed
from benchmarks.report import machine
from redlock import RedlockError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Table

SCENARIOS = ("uncontended", "hot", "frozen", "dead", "celery", "growth", "distance", "asyncio", "fence")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios of the command line, and return the exit status."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.against:
        return _against(options)
    # The cost of the SQL fence needs no other lock.
    peers = {"kinds": ()} if list(options.only) == ["fence"] else {}
    bench = Bench(Options(options.quick, options.rounds, options.out.absolute()), **peers)
    tables: list[Table] = []
    failed = 0
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            for table in importlib.import_module(f"benchmarks.scenarios.{name}").run(bench):
                tables.append(table)
                print(table.text(), flush=True)
        except (PeerFailed, RedlockError, OSError) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            failed = 1
        except KeyboardInterrupt:
            print("bench: stopped; the measurements so far follow", file=sys.stderr)
            failed = 130
            break
    for name, why in bench.missing.items():
        print(f"not measured: {name}: {why}")
    if tables:
        print(goals.table(tables).text())
        _write(options.out, tables, bench.missing)
    return failed


def _against(options: argparse.Namespace) -> int:
    """This tree beside another commit, and nothing else."""
    bench = Bench(Options(options.quick, options.rounds, options.out.absolute()), ())
    try:
        table = against.run(bench, options.against)
    except (against.NoCommit, PeerFailed, RedlockError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table.text(), flush=True)
    _write(options.out, [table], {})
    return 0


def _write(out: Path, tables: Sequence[Table], missing: dict[str, str]) -> None:
    written = ("scenario", "title", "columns", "rows", "raw")
    results = {
        "machine": machine(),
        "not measured": missing,
        "tables": [{name: getattr(one, name) for name in written} for one in tables],
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "results.svg").write_text(plot.svg(tables))
    print(f"\nwritten: {out / 'results.json'}, {out / 'results.svg'}")


def _scenarios(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SCENARIOS:
            raise argparse.ArgumentTypeError(f"{name!r} is not a scenario; the scenarios are {', '.join(SCENARIOS)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds; a whole number from 1 on is")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the lock beside its peers.")
    parser.add_argument("--only", type=_scenarios, default=SCENARIOS, metavar="A,B", help=f"of {','.join(SCENARIOS)}")
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="number of repetitions")
    parser.add_argument("--against", metavar="REF", help="measure this tree beside another commit, and nothing else")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out", metavar="DIR", help="directory of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
