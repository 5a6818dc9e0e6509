"""`redlock run`: the signals and the settings that the program gets from the caller and from `redlock`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from redlock.admin.bootstrap import declare_nodes
from redlock.testing.redis_server import Cluster
from tests.integration.shell import Shell, python, run_python, talking
from tests.integration.tools import PATIENT, is_free

NAME = "report"
INNER = (sys.executable, "-m", "redlock", "run", "inner", "--", "sh", "-c", "echo $REDLOCK_RESOURCE")

# The program prints the signals that it ignores, and ends with the end of its input.
IGNORING = """
import signal, sys
numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)
print(*(number.name for number in numbers if signal.getsignal(number) == signal.SIG_IGN))
sys.exit(3 + len(sys.stdin.read()))
"""

# As `nohup` and a shell's `command &`: the caller ignores signals, then becomes `redlock`.
CALLER = """
import os, signal, sys
for number in {ignored}:
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *{words}])
"""


@pytest.mark.parametrize(
    "ignored", [(signal.SIGHUP,), (signal.SIGINT, signal.SIGTSTP), (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
)
def test_a_signal_that_the_caller_ignored_stays_ignored(nodes: Cluster, ignored: tuple[signal.Signals, ...]) -> None:
    words = ["-m", "redlock", "run", "--nodes", ",".join(nodes.urls), NAME, "--", *python(IGNORING)]
    with talking("-c", CALLER.format(ignored=tuple(map(int, ignored)), words=words)) as (process, stdin, stdout):
        assert set(stdout.readline().split()) == {number.name for number in ignored}
        for number in ignored:
            process.send_signal(number)
        stdin.close()
        assert process.wait(timeout=200) == 3
    assert is_free(nodes.servers, NAME)


def test_an_ignored_sigchld_keeps_the_exit_status(nodes: Cluster) -> None:
    """The system forgets the children of a process that ignores this signal."""
    words = ["-m", "redlock", "run", "--nodes", ",".join(nodes.urls), NAME, "--", "sh", "-c", "exit 7"]
    with talking("-c", CALLER.format(ignored=(int(signal.SIGCHLD),), words=words)) as (process, _, _):
        assert process.wait(timeout=200) == 7


def test_the_program_locks_with_the_settings_of_an_app(nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "long_leases.py").write_text(
        "from celery import Celery\napp = Celery('long', broker='memory://')\n"
        "app.conf.update(redlock_ttl=30, redlock_max_ttl=30, redlock_prefix='long:', redlock_node_timeout=2)\n"
        f"app.conf.redlock_nodes = {nodes.urls!r}\n"
    )
    declare_nodes(nodes.urls, "long:")
    done = run_python("-m", "redlock", "run", "-A", "long_leases", NAME, "--", *INNER, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "inner\n", "")


def test_a_prefix_that_the_locale_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefix").write_text("\u0438:", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | ascii_only | {"REDLOCK_PREFIX_FILE": str(tmp_path / "prefix")}
    # No node would answer.
    done = run_python("-m", "redlock", "run", "--nodes", "127.0.0.1:1", NAME, "--", "true", env=environment)
    said = "redlock: the program's environment can't hold the value of REDLOCK_PREFIX; "
    assert (done.returncode, done.stderr.startswith(said), done.stderr.count("\n")) == (2, True, 1)


def test_the_program_gets_every_setting_of_its_locks(nodes: Cluster, tmp_path: Path) -> None:
    source = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('REDLOCK_')}))"
    done = Shell(nodes, tmp_path).call("run", "--ttl", "4", NAME, "--", *python(source))
    found = json.loads(done.stdout)
    assert found.pop("REDLOCK_FENCE").isdigit()
    assert found == {
        "REDLOCK_MAX_TTL": "10.0",
        "REDLOCK_NODES": ",".join(nodes.urls),
        "REDLOCK_NODE_TIMEOUT": f"{float(PATIENT)}",
        "REDLOCK_PREFIX": "",
        "REDLOCK_RESOURCE": NAME,
        "REDLOCK_TTL": "4.0",
    }
