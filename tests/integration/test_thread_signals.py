"""The threads of the lock take no signal, so that a signal interrupts what the main thread waits for."""

from __future__ import annotations

import sys

import pytest

from redlock.testing.redis_server import Cluster
from tests.integration.shell import talking

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only its kernel tells which thread is the main thread")

THREADS = """
import os, signal, sys, threading
from redlock import Redlock
from tests.integration.shell import talking
from tests.integration.tools import eventually, renewed

signal.signal(signal.SIGTERM, lambda *_: None)
with Redlock(sys.argv[1:]) as client, client.lock("a", renew=True) as lease:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=client.lock("a", blocking_timeout=60).acquire, daemon=True).start()
    wanted = {"redlock-renewal", "redlock-waits"}
    eventually(lambda: wanted <= {thread.name for thread in threading.enumerate()}, "the threads of the lock")
    os.kill(os.getpid(), signal.SIGTERM)
    renewed(lease)
    print(signal.SIGTERM in signal.sigpending())
"""
CALLBACK = """
import signal, sys
from redlock import Redlock
from tests.integration.tools import eventually

blocked = []
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
with Redlock(sys.argv[1:]) as client:
    hear = lambda lease: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    lease = client.lock("a", ttl=1, max_hold=1, renew=True, on_lost=hear).__enter__()
    eventually(lambda: blocked, "the callback")
print(blocked == [{signal.SIGHUP}])
"""
GREENLETS = """
import signal, sys
if sys.argv[1] == "gevent":
    import gevent.monkey
    gevent.monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()
from redlock import Redlock
from tests.integration.tools import renewed

with Redlock(sys.argv[2:]) as client, client.lock("a", renew=True) as lease:
    renewed(lease)
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set())
"""


def printed(program: str, *arguments: str) -> str:
    """The output of this program, which must end well."""
    with talking("-c", program, *arguments) as (process, _, output):
        text = output.read()
        assert process.wait() == 0
    return text


def test_a_signal_of_the_process_is_left_to_its_main_thread(nodes: Cluster) -> None:
    assert printed(THREADS, *nodes.urls) == "True\n"


def test_a_callback_has_the_signals_of_the_application(nodes: Cluster) -> None:
    assert printed(CALLBACK, *nodes.urls) == "True\n"


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_greenlets_leave_the_signals_of_the_main_thread(nodes: Cluster, kind: str) -> None:
    assert printed(GREENLETS, kind, *nodes.urls) == "True\n"
