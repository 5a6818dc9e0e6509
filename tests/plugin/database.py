"""The fixtures beside Django's `TestCase`."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test import TestCase, TransactionTestCase

from redlock import Redlock
from redlock.testing import LockNodes


class Both:
    nodes: LockNodes
    redlock: Redlock

    @pytest.fixture(autouse=True)
    def _lock(self, redlock_nodes: LockNodes, redlock_client: Redlock) -> None:
        self.nodes, self.redlock = redlock_nodes, redlock_client

    def test_a_write_under_a_lock(self) -> None:
        assert not Group.objects.exists()
        with self.redlock.lock("group") as lease:
            fence = str(lease.fence)
            Group.objects.create(name=fence)
        assert Group.objects.get().name == fence

    def test_a_node_that_is_down(self) -> None:
        assert not Group.objects.exists(), "the write of another test is rolled back"
        self.nodes[0].kill()
        with self.redlock.lock("group", blocking_timeout=30) as lease:
            Group.objects.create(name=str(lease.fence))


class TestInATransaction(Both, TestCase):  # type: ignore[misc]  # Django is untyped
    def test_it_is_one(self) -> None:
        assert connection.in_atomic_block


class TestWithoutATransaction(Both, TransactionTestCase):  # type: ignore[misc]  # as above
    pass
