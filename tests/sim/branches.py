"""Branch coverage of the shipped code without I/O under simulated schedules.

    python -m tests.sim.branches --count 20000             the modules, and the lines that no schedule has reached

Exit status 1 if the coverage is below `--least` percent. The modules are the algorithm, the life of a lease, and the
state machines of the transport.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import coverage

import redlock
from tests.sim import run

_ROOT = Path(redlock.__file__).parent
_TRANSPORT = (
    "codec",
    "decoder",
    "connected_nodes",
    "connection",
    "connections",
    "node_health",
    "pending_releases",
    "reply_reader",
    "vote_checks",
)
"""The modules of the transport that the contract in `pyproject.toml` keeps free of I/O."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.branches", description="Coverage of the schedules.")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=20_000, help="the number of schedules")
    parser.add_argument("--least", type=float, default=95.0, help="the least coverage in percent")
    options = parser.parse_args()
    modules = [str(_ROOT / folder / "*.py") for folder in ("_core", "_locking")]
    modules += [str(_ROOT / "_transport" / f"{name}.py") for name in _TRANSPORT]
    measured = coverage.Coverage(
        data_file=None, config_file=False, branch=True, concurrency=["greenlet"], include=modules, messages=False
    )
    # Only the type checker reads these.
    measured.exclude("if TYPE_CHECKING:")
    measured.exclude(r"class .*\(Protocol\):")
    began = time.perf_counter()
    measured.start()
    total = run.chunk((options.first, options.first + options.count))
    measured.stop()
    percent = measured.report(show_missing=True, skip_covered=False, precision=1)
    seconds = time.perf_counter() - began
    print(f"{percent:.2f} % of lines and branches under {total.schedules:,} schedules, in {seconds:.0f} s")
    print(f"{len(total.violations)} violations")
    return int(percent < options.least or bool(total.violations))


if __name__ == "__main__":
    sys.exit(main())
