"""The floor with releases that are not waited for: each goes out in one piece with the next acquire."""

from __future__ import annotations

from benchmarks.peers.floor import Floor
from benchmarks.worker import serve


class FloorAsyncRelease(Floor):
    """The floor, with a release that is held back."""

    waits = False


if __name__ == "__main__":
    serve(FloorAsyncRelease)
