"""Tests of the demo's command line and of its start, before any server or worker runs."""

from __future__ import annotations

import pytest

from redlock.testing import redis_server
from tests.integration.shell import run_python
from tests.integration.test_output import PAUSED
from workers import demo_options
from workers.cluster import FLOWER_PORT
from workers.demo import main

INTERRUPTED = 130
FROM_1 = "is not a whole number from 1 to"
IN_BOTH = "is one of those of broker and nodes"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--tasks 0", f"argument --tasks: '0' {FROM_1} 1000000"),
        ("--tasks 1000001", f"argument --tasks: '1000001' {FROM_1} 1000000"),
        ("--children two", f"argument --children: 'two' {FROM_1} 64"),
        ("--children 65", f"argument --children: '65' {FROM_1} 64"),
        ("--workers 99999999999999999999", f"argument --workers: '99999999999999999999' {FROM_1} 64"),
        (f"--workers {'9' * 5_000}", f"argument --workers: '{'9' * 59} {FROM_1} 64"),
        ("--workers 17 --children 16", "--workers and --children make 272 processes; 256 are the most"),
        ("--think -1", "argument --think: '-1' is not a number of seconds from 0 to 10"),
        ("--ports 65535", "argument --ports: '65535' is not a port from 1 to 65530"),
        (f"--ports {'9' * 5_000}", f"argument --ports: '{'9' * 59} is not a port from 1 to 65530"),
        ("--flower-port 0", "argument --flower-port: '0' is not a port from 1 to 65535"),
        *(
            (arguments, f"Flower's port, {port}, {IN_BOTH}, {first} to {first + 5}; choose another with --flower-port")
            for arguments, port, first in (
                ("--up --flower-port 63792", 63792, 63790),
                ("--ports 65530 --flower-port 65530", 65530, 65530),
                (f"--up --ports {FLOWER_PORT - 5}", FLOWER_PORT, FLOWER_PORT - 5),
            )
        ),
        ("--bogus", "unrecognized arguments: --bogus"),
    ],
    ids=lambda words: words[:40],
)
def test_an_option_that_is_no_good_is_refused_in_a_line(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[1:] == [f"python -m workers.demo: error: {complaint}"]


def test_the_largest_numbers_are_accepted() -> None:
    plan = demo_options.plan(demo_options.parse(["--workers", "064", "--children", "4", "--tasks", "1000000"]))
    assert (plan.workers, plan.children) == (64, 4)


def test_two_demos_choose_different_ports_for_flower() -> None:
    """Both would find the usual port free, because Flower listens seconds later."""
    one, other = (demo_options.plan(demo_options.parse([])).flower_port for _ in range(2))
    assert len({one, other, FLOWER_PORT}) == 3
    assert demo_options.plan(demo_options.parse(["--up"])).flower_port == FLOWER_PORT


def test_a_free_port_for_flower_is_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "free_port", iter([20_002, 20_006]).__next__)
    assert demo_options.plan(demo_options.parse(["--ports", "20000"])).flower_port == 20_006


@pytest.mark.parametrize(
    "start",
    [
        "from workers.demo import main; sys.exit(main())",
        "import runpy; runpy.run_module('workers.demo', run_name='__main__')",
    ],
    ids=["call", "module"],
)
@pytest.mark.parametrize("module", ["celery.result", "workers.report"])
def test_ctrl_c_during_the_start_is_130_and_says_nothing(start: str, module: str) -> None:
    done = run_python("-c", PAUSED.format(module=module) + start)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")
