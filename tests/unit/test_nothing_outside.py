"""A unit test may not sleep, and neither may its threads; a thread of an earlier test may."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture(scope="module")
def earlier() -> Iterator[ThreadPoolExecutor]:
    """A thread that is older than the test."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        yield pool


def test_a_thread_of_an_earlier_test_may_sleep(earlier: ThreadPoolExecutor) -> None:
    assert earlier.submit(time.sleep, 0).exception() is None


def test_no_test_may_sleep() -> None:
    with pytest.raises(pytest.fail.Exception, match="must not"):
        time.sleep(0)


def test_no_thread_of_a_test_may_sleep() -> None:
    refused = []

    def sleep() -> None:
        try:
            time.sleep(0)
        except pytest.fail.Exception as error:
            refused.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    thread.join()
    assert refused
