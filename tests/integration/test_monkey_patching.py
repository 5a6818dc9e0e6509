"""gevent or eventlet patches the standard library after the import of the package, as in a preloaded worker."""

from __future__ import annotations

import pytest

from redlock.testing.redis_server import Cluster
from tests.integration.test_thread_signals import printed

LATE = """
import contextvars, os, signal, sys, threading
from redlock import Redlock
from tests.integration.tools import renewed

# A name is resolved in another thread.
client = Redlock([*sys.argv[2:5], "redis://localhost:1", "redis://localhost:2"], node_timeout=0.9)
lock = client.lock("a", reentrant=True)
with client.lock("of the parent"), lock:
    pass
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(100)  # A wait that blocks the greenlets would never end.
if sys.argv[1] == "gevent":
    import gevent.monkey
    gevent.monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()

said, inside = [], []

def share():
    said.append(lock.owned())
    said.append(lock.acquire(blocking=False))

def enter():
    with lock as lease:
        inside.append(lease)
        client.holder("a")  # the other greenlets run
        said.append(len(inside))
        inside.remove(lease)

def ended(*threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

with lock as lease:
    ended(threading.Thread(target=contextvars.copy_context().run, args=(share,)))
    renewed(lease)
ended(*[threading.Thread(target=enter) for _ in range(3)])
print(said)
"""


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_a_lock_from_before_the_patch_works_in_greenlets(nodes: Cluster, kind: str) -> None:
    assert printed(LATE, kind, *nodes.urls) == "[False, False, 1, 1, 1]\n"
