"""Exhaustive search: P2 for the token protocol and P3 for the fenced store, in every state that can be reached.

    python -m tests.sim.exhaustive              the shipped protocol, all complete configurations (about 5 minutes)
    python -m tests.sim.exhaustive kept-2       one of them
    python -m tests.sim.exhaustive store        the fenced store, three runs, every plan; then its broken variants
    python -m tests.sim.exhaustive --variant V  one broken variant, with its shortest counter-example
    python -m tests.sim.exhaustive --all        every variant
    python -m tests.sim.exhaustive --list       their names

This module prints; its output holds for a search that went to its end. The exit status is 1 if the
shipped protocol breaks a promise, or a variant does not behave as its table says.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim import exhaustive_store as store
from tests.sim.exhaustive_rules import COMPLETE, QUICK, REDUNDANT, SHIPPED, VARIANTS, Config, Rules
from tests.sim.exhaustive_search import Found, Search


def shown(name: str, rules: Rules, config: Config, found: Found) -> str:
    """A search's outcome, for people."""
    lines = [
        f"{name}: {rules.why}",
        f"  {config}",
        f"  {found.states:,} states, depth {found.depth}, {found.seconds:.1f} s",
    ]
    if found.breach:
        lines += [f"  {number:3} {step}" for number, step in enumerate(found.steps, 1)]
        lines.append(f"  BROKEN: {found.breach}")
    else:
        lines.append("  complete, no violation")
    return "\n".join(lines)


def complete(name: str, config: Config) -> bool:
    """Search one configuration of the shipped protocol to its end; true if nothing is broken."""
    found = Search(SHIPPED, config).run(keep_ways=False)
    if found.breach:
        found = Search(SHIPPED, config).run()
    print(shown(name, SHIPPED, config, found), flush=True)
    return not found.breach


def variant(name: str) -> bool:
    """Search one variant; true if the result is as its table says: broken or redundant."""
    rules = VARIANTS[name]
    found = Search(rules, rules.config).run()
    print(shown(name, rules, rules.config, found), flush=True)
    return bool(found.breach) != (name in REDUNDANT)


def doors() -> bool:
    """Search the fenced store; true if only the broken variants break."""
    began = time.monotonic()
    plans = store.plans(3)
    found = [store.search(plan) for plan in plans]
    broken = [each for each in found if each.breach]
    states, seconds = sum(each.states for each in found), time.monotonic() - began
    print(f"store: {len(plans):,} plans, {states:,} states, {seconds:.1f} s, {len(broken)} with a violation")
    for each in broken[:1]:
        print("\n".join([*each.steps, f"BROKEN: {each.breach}"]))
    fine = not broken
    for name, variant_doors in store.BROKEN.items():
        ways = [each for each in (store.search(plan, variant_doors) for plan in store.plans(2)) if each.breach]
        fine = fine and bool(ways)
        for each in sorted(ways, key=lambda way: len(way.steps))[:1]:
            print("\n    ".join([f"store, {name}", *each.steps, f"BROKEN: {each.breach}"]), flush=True)
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.exhaustive", description=__doc__.splitlines()[0])
    configurations = {**COMPLETE, **{f"quick-{name}": config for name, config in QUICK.items()}}
    parser.add_argument("configuration", nargs="*", help="which of the shipped protocol's; all complete ones if none")
    parser.add_argument("--variant", choices=VARIANTS, help="search one variant")
    parser.add_argument("--all", action="store_true", help="search every variant")
    parser.add_argument("--list", action="store_true", help="name what can be searched")
    asked = parser.parse_args()
    if asked.list:
        print(
            "\n".join(
                [*configurations, "store", *(f"--variant {name}: {rules.why}" for name, rules in VARIANTS.items())]
            )
        )
        return 0
    if asked.all or asked.variant:
        fine = [variant(name) for name in ([asked.variant] if asked.variant else VARIANTS)]
        return int(not all(fine))
    unknown = set(asked.configuration) - {*configurations, "store"}
    if unknown:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    names = asked.configuration or [*COMPLETE, "store"]
    fine = [doors() if name == "store" else complete(name, configurations[name]) for name in names]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
