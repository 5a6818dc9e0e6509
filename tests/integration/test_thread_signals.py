"""The threads of the lock take no signal, so that a signal interrupts what the main thread waits for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.tools import talking

if TYPE_CHECKING:
    from redlock.testing.redis_server import Cluster

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only its kernel tells which thread is the main thread")

RENEWED = """
def until_renewed(lease):
    left = lease.remaining()
    while lease.remaining() <= left:
        left = lease.remaining()
        time.sleep(0.01)
"""
THREADS = f"""
import os, signal, sys, threading, time
from redlock import Redlock
{RENEWED}
signal.signal(signal.SIGTERM, lambda *_: None)
with Redlock(sys.argv[1:]) as client, client.lock("a", renew=True) as lease:
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
    threading.Thread(target=client.lock("a", blocking_timeout=60).acquire, daemon=True).start()
    while not {{"redlock-renewal", "redlock-waits"}} <= {{thread.name for thread in threading.enumerate()}}:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    until_renewed(lease)
    print(signal.SIGTERM in signal.sigpending())
"""
CALLBACK = """
import signal, sys, threading
from redlock import Redlock

blocked, heard = [], threading.Event()

def on_lost(lease):
    blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    heard.set()

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
with Redlock(sys.argv[1:]) as client:
    lease = client.lock("a", ttl=1, max_hold=1, renew=True, on_lost=on_lost).__enter__()
    heard.wait()
print(blocked == [{signal.SIGHUP}])
"""
GREENLETS = f"""
import signal, sys, time
if sys.argv[1] == "gevent":
    import gevent.monkey
    gevent.monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()
from redlock import Redlock
{RENEWED}
with Redlock(sys.argv[2:]) as client, client.lock("a", renew=True) as lease:
    until_renewed(lease)
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
