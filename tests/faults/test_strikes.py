"""A kind of fault at a time, in the middle of a run: nodes, links, store, broker, workers. Nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redlock._transport import codec
from tests.faults.cluster_fixture import APPS, TTL
from tests.faults.fault_injector import KINDS, NEEDS_CLOCKS, FaultInjector
from tests.faults.plan import Fault
from tests.faults.soak import Run, settings_for, staffed
from tests.integration.tools import eventually, scripts_run

WRITE = codec.Script.load("write").sha
BRIEF = "store killed"
"""The fault of the short version; `tests/integration` and `test_kills.py` have tests of the next two alone."""
IN_CI = {"node from an old snapshot", "worker killed"}


@pytest.fixture
def injector(tmp_path: Path) -> Iterator[FaultInjector]:
    """Servers behind proxies, workers that use the proxies, and the injector of faults."""
    with staffed(tmp_path, concurrency=3) as injector:
        yield injector


@pytest.mark.parametrize(
    "kind",
    [kind if kind == BRIEF else pytest.param(kind, marks=pytest.mark.long(ci=kind in IN_CI)) for kind in KINDS],
)
def test_everything_is_done_once_in_spite_of(injector: FaultInjector, kind: str) -> None:
    if kind in NEEDS_CLOCKS and not injector.clocks:
        pytest.skip("no C compiler")
    fixture = injector.fixture
    faults = [Fault(0.3, kind, 3, 1.5 * TTL), Fault(0.3 + 2 * TTL, kind, 1, 0.3 * TTL)]
    run = Run(fixture, injector, faults)
    run.go(2.5 * TTL)
    run.finish()

    assert fixture.violations(keeps=kind != "lock keys deleted") == []
    assert run.struck == {kind: 2}
    assert fixture.figures().applied > 20, "hardly anything was at work"


@pytest.mark.long
def test_a_write_delayed_past_its_lease_is_refused(injector: FaultInjector) -> None:
    fixture, link = injector.fixture, injector.store
    settings = settings_for([*injector.nodes, link])
    fixture.start_worker("-Q", "held", **settings)
    fixture.start_worker("-Q", "direct", **(settings | {"COUNTER_STORE_URL": f"{fixture.store_server.url}/0"}))

    def holds_from_the_write_on(data: bytes) -> bool:
        if WRITE in data:
            link._ways["to"].clear()
        return True

    link.lets_through = holds_from_the_write_on
    late = fixture.play("counting.add", "held", queue="held")
    try:
        # Its writer has given up, and given the lock back.
        fixture.wait_for(late, "leave")
        others = [fixture.play("counting.add", "held", queue="direct") for _ in range(3)]
        eventually(lambda: all(fixture.applied(op) for op in others), "the others' writes", every=0.1)
        assert not fixture.applied(late)
        asked = scripts_run(fixture.store_server)
    finally:
        link.lets_through = bool
        link.restore()

    eventually(lambda: scripts_run(fixture.store_server) > asked, "the arrival of the late write")
    eventually(lambda: fixture.applied(late), "the operation, done again", every=0.1)
    fixture.settle()
    assert fixture.violations(keeps=True) == []
    (written,) = [write for write in fixture.accepted().writes if write.identity == late]
    assert written.value == 4, "the late write was accepted in the end, from a new section"


def test_copies_of_one_task_that_overlap_count_once(injector: FaultInjector) -> None:
    fixture = injector.fixture
    fixture.start_worker(concurrency=3, **settings_for([*injector.nodes, injector.store], visibility=600))
    op = fixture.play("endings.late", "twice", "stay", "before")
    fixture.wait_for(op, "stay")
    for _ in range(2):
        fixture.send(f"{APPS}.endings.late", "twice", "stay", "before", task_id=op)
    eventually(lambda: len(fixture.steps(op, "invoke")) > 1, "a copy beside the first", every=0.1)
    fixture.store.set(f"faults:go:{op}", 1)
    fixture.settle()

    assert fixture.violations(keeps=True) == []
    assert fixture.figures().together == 1, "no two copies were at work at the same time"
    assert [step.fields["applied"] for step in fixture.steps(op, "wrote")] == [True, False, False]


@pytest.mark.long
def test_a_task_beyond_the_visibility_timeout_counts_once(injector: FaultInjector) -> None:
    fixture = injector.fixture
    fixture.start_worker(concurrency=3, **settings_for([*injector.nodes, injector.store], visibility=3))
    op = fixture.play("endings.late", "long", "stay", "before")
    eventually(lambda: len(fixture.steps(op, "invoke")) > 1, "a second delivery", within=60, every=0.1)
    fixture.store.set(f"faults:go:{op}", 1)
    fixture.settle()

    assert fixture.violations(keeps=True) == []
    assert fixture.figures().together == 1, "it was not delivered again while it was at work"
    assert fixture.applied(op) == 1
