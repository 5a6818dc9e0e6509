"""This project's lock with asynchronous releases."""

from __future__ import annotations

from benchmarks.peers.ours import Ours
from benchmarks.worker import serve


class OursAsyncRelease(Ours):
    """This project's lock with the setting for many short locks in sequence."""

    waits = False


if __name__ == "__main__":
    serve(OursAsyncRelease)
