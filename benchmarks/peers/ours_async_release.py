"""This project's lock, with releases that are not waited for."""

from __future__ import annotations

from benchmarks.peers.ours import Ours
from benchmarks.worker import serve


class OursAsyncRelease(Ours):
    """This project's lock, at the setting for whoever takes many, one after the other."""

    waits = False


if __name__ == "__main__":
    serve(OursAsyncRelease)
