"""The simulator by hand.

    python -m tests.sim --seed 56                    replay one schedule with its whole history
    python -m tests.sim --first 0 --count 20000      run a batch; --jobs 2 for two processes
    python -m tests.sim --driver asyncio --count 1000   schedules of clients for asyncio, also with --seed
    python -m tests.sim --mutants                    which seeded bug is found where
    python -m tests.sim --mutant "no quarantine"     the same for one of them

Exit status 0 if nothing was found, 1 if a promise was broken, a batch was vacuous or a mutant survived.
"""

from __future__ import annotations

import argparse
import sys

from tests.sim import mutant_search, run
from tests.sim.mutants import MUTANTS
from tests.sim.source import Source

_EVERY_SECONDS = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="A deterministic simulator of the lock.")
    parser.add_argument("--seed", type=int, help="replay this schedule")
    parser.add_argument("--first", type=int, default=0, help="the batch's first seed")
    parser.add_argument("--count", type=int, default=1_000, help="how many schedules the batch has")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes run it")
    parser.add_argument("--driver", choices=run.DRIVERS, default="threads", help="the clients: threads or asyncio")
    parser.add_argument("--mutants", action="store_true", help="run the seeded bugs instead")
    parser.add_argument("--mutant", choices=MUTANTS, metavar="NAME", help="run one of them")
    parser.add_argument("--most", type=int, default=100_000, help="how many schedules a mutant gets")
    options = parser.parse_args()
    if options.mutants or options.mutant:
        return mutant_search.table({options.mutant} if options.mutant else MUTANTS.keys(), options.most)
    if options.seed is not None:
        return _replay(options.seed, options.driver)
    return _batch(options.first, options.count, options.jobs, options.driver)


def _replay(seed: int, driver: str) -> int:
    schedule = run.DRIVERS[driver](seed, Source()).run()
    for name, value in schedule.options._asdict().items():
        print(f"{name:12} {value}")
    for when, *what in schedule.world.history:
        print(f"{when / 1e6:12.6f}  {' '.join(map(str, what))}")
    print(f"history {schedule.hash}, {schedule.world.events} events, violations: {schedule.world.violations or 'none'}")
    return int(bool(schedule.world.violations))


def _batch(first: int, count: int, jobs: int, driver: str) -> int:
    total, said, seconds = run.Totals(), 0.0, 0.0
    for total, seconds in run.batch(first, count, jobs, driver):
        if total.violations:
            break
        if seconds - said > _EVERY_SECONDS:
            said = seconds
            print(f"  {total.schedules:,} of {count:,}, {total.schedules / seconds:.0f} a second", flush=True)
    print(
        f"{total.schedules:,} schedules from seed {first}: {total.events:,} events, {total.grants:,} grants, "
        f"{total.two_rounds:,} of them in two rounds; of {total.breaking:,} that may break the assumptions "
        f"{total.two_holders:,} had two believing holders and {total.refused:,} a refused stale operation; "
        f"{len(total.violations)} violations; {seconds:.0f} s"
    )
    for seed, what in total.violations[:5]:
        print(f"VIOLATION {what}\n  python -m tests.sim --driver {driver} --seed {seed}")
    if total.violations:
        _explain(total.violations[0][0], driver)
        return 1
    for what in total.vacuous:
        print(f"VACUOUS {what}")
    return int(bool(total.vacuous))


def _explain(seed: int, driver: str) -> None:
    schedule, before = run.shrink(seed, Source(), driver)
    left = [entry[2:] for entry in schedule.world.history if entry[1] == "fault"]
    print(f"seed {seed} fails with {len(left)} of its {before} faults:")
    for number, when, kind, target, length, detail in left:
        how = f"target {target}, for {length / 1e6:.3f} s, detail {detail} (number {number})"
        print(f"  at {when / 1e6:.6f} s: {kind}, {how}")


if __name__ == "__main__":
    sys.exit(main())
