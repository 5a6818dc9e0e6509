"""More tests of the same Django project: threads, contexts, functions of `on_commit`, and routers."""

from __future__ import annotations

from tests.integration.apps.django_fence import (  # first: it sets Django up
    ALIASES,
    LEASE,
    Replicas,
    assert_refused,
    note,
    run,
)

# isort: split
import contextvars
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from django.db import DatabaseError, connection, connections, transaction
from django.test import TransactionTestCase, override_settings
from django.test.runner import DiscoverRunner

from redlock.errors import ConfigurationError
from redlock.fencing.conformance import Lease
from redlock.fencing.django import fenced, purge_operations
from redlock.fencing.django.models import Fence, Operation

ROUTER = "redlock.fencing.django.FencedRouter"


class ForOneModel(Replicas):
    """Reads a single model from the replica."""

    def db_for_read(self, _model: Any, **_hints: Any) -> Any:
        return "replica" if _model is Operation else None


class AtRandom(Replicas):
    """Reads from the replica now and then."""

    def db_for_read(self, _model: Any, **_hints: Any) -> str:
        return random.choice(("default", "replica"))


class WritesOnly:
    """Says nothing about reads."""

    def db_for_write(self, _model: Any, **_hints: Any) -> str:
        return "default"


def in_thread(*functions: Any) -> list[Any]:
    """Call each function in a thread of its own, and return the results or exceptions."""

    def call(function: Any) -> Any:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as pool:
        calls = [pool.submit(call, function) for function in functions]
    return [call.exception() or call.result() for call in calls]


class Blocks(TransactionTestCase):  # type: ignore[misc]  # Django has no types
    databases = ("default", "other", "replica")

    def noted(self, alias: str = "default") -> list[str]:
        return sorted(Operation.objects.using(alias).values_list("operation_id", flat=True))

    def test_on_commit_may_open_the_next_block(self) -> None:
        with fenced(LEASE):
            transaction.on_commit(fenced(lambda: LEASE)(lambda: note("default")))
        self.assertEqual(self.noted(), ["noted"])

    def test_a_failed_function_of_on_commit_is_no_failed_block(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with self.assertNoLogs("redlock"), self.assertRaises(ZeroDivisionError):
            with fenced(LEASE, operation="outer"):
                transaction.on_commit(fail)
                with fenced(LEASE, using="other", operation="inner"):
                    pass
        self.assertEqual((self.noted(), self.noted("other")), (["outer"], ["inner"]))

        with self.assertLogs("redlock", "WARNING") as logs, self.assertRaises(ZeroDivisionError):
            with fenced(LEASE, operation="outer-2"):
                with fenced(LEASE, using="other", operation="inner-2"):
                    transaction.on_commit(fail, using="other")
        self.assertIn("partly-committed resource=account operation=outer-2 committed=inner-2", logs.output[0])
        self.assertEqual((self.noted(), self.noted("other")), (["outer"], ["inner", "inner-2"]))
        self.assertFalse(any(connections[alias].in_atomic_block for alias in ALIASES))

    def test_a_block_that_is_marked_for_rollback_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigurationError, "marked for rollback by set_rollback"):
            with fenced(LEASE):
                note("default")
                transaction.set_rollback(True)
        self.assertEqual(self.noted(), [])

    def test_nothing_is_written_after_the_end(self) -> None:
        run("INSERT INTO redlock_operation VALUES ('there', %s)", "2020-01-01")
        ends = ["COMMIT", "ROLLBACK"]
        if connection.vendor == "sqlite":
            ends += ["INSERT OR ROLLBACK INTO redlock_operation VALUES ('there', '2020-01-01')"]
        for end in ends:
            with self.subTest(end), self.assertRaisesRegex(ConfigurationError, "ended inside the block"), fenced(LEASE):
                with suppress(DatabaseError):
                    run(end)
                with suppress(ConfigurationError):
                    note("default")
            self.assertEqual(self.noted(), ["there"])
        note("default")

    def test_two_threads_may_share_a_block(self) -> None:
        names = iter(("acc", "ACC"))
        shared = fenced(lambda: Lease(7, "me", (next(names),)))
        # A SQLite file has a single writer.
        together = threading.Barrier(1 if connection.vendor == "sqlite" else 2)

        def work(name: str) -> bool:
            with shared:
                together.wait(60)
                Operation.objects.create(operation_id=name, at="2020-01-01T00:00:00Z")
                together.wait(60)
            return bool(connection.in_atomic_block)

        self.assertEqual(in_thread(lambda: work("one"), lambda: work("two")), [False, False])
        self.assertEqual((self.noted(), Fence.objects.count()), (["one", "two"], 2))

    def test_a_block_that_changes_threads_is_refused(self) -> None:
        block = fenced(LEASE)
        block.__enter__()
        note("default")
        (refused,) = in_thread(lambda: block.__exit__(None, None, None))
        self.assertIsInstance(refused, ConfigurationError)
        self.assertIn("in another thread", str(refused))
        block.__exit__(None, None, None)
        self.assertEqual(self.noted(), ["noted"])

    def test_a_block_may_end_in_another_context(self) -> None:
        block = fenced(LEASE)
        contextvars.copy_context().run(block.__enter__)
        block.__exit__(None, None, None)
        with fenced(LEASE):
            pass
        self.assertEqual(Fence.objects.get().section, 2)

    def test_a_context_from_an_ended_block_may_fence(self) -> None:
        with fenced(LEASE, using="other"):
            context = contextvars.copy_context()

            def work() -> None:
                with fenced(LEASE):
                    note("default")

            # As for a task that the block starts: its commit would come before that of the block.
            (refused,) = in_thread(lambda: context.run(work))
            self.assertIn("give both blocks an operation id", str(refused))
        context.run(work)
        with fenced(LEASE):
            context = contextvars.copy_context()
        self.assertEqual(in_thread(lambda: context.run(fenced(LEASE)(lambda: 5))), [5])
        self.assertEqual(self.noted(), ["noted"])

    def test_an_alias_with_another_spelling_is_the_same(self) -> None:
        name = connection.settings_dict["NAME"]
        key, one, two = ("NAME", name, Path(name)) if connection.vendor == "sqlite" else ("PORT", "5432", 5432)
        default, replica = (connections[alias].settings_dict for alias in ("default", "replica"))
        with fenced(LEASE, operation="op"):
            with mock.patch.dict(default, {key: one}), mock.patch.dict(replica, {key: two}):
                assert_refused("'replica' has an open fenced block already", using="replica", operation="op")

    def test_an_unknown_alias_is_refused(self) -> None:
        wrong: Any
        for wrong in ("nope", None, 5):
            for call in (fenced(LEASE, using=wrong).__enter__, lambda wrong=wrong: purge_operations(using=wrong)):
                with self.assertRaisesRegex(ConfigurationError, "an alias in DATABASES: default, replica, other"):
                    call()


class Routers(TransactionTestCase):  # type: ignore[misc]  # as above
    def test_each_router_that_chooses_reads_is_refused(self) -> None:
        for router in ("Replicas", "ForOneModel", "AtRandom"):
            for routers in ([router], ["WritesOnly", router], [router, ROUTER]):
                paths = [name if "." in name else f"__main__.{name}" for name in routers]
                with override_settings(DATABASE_ROUTERS=paths), self.subTest(routers):
                    assert_refused(f"{router} chooses where to read")
        self.assertEqual(Fence.objects.count(), 0)

    def test_routers_behind_the_fenced_router_pass(self) -> None:
        for routers in (["__main__.WritesOnly"], ["__main__.WritesOnly", ROUTER, "__main__.AtRandom"]):
            with override_settings(DATABASE_ROUTERS=routers):
                for _ in range(20):
                    with fenced(LEASE):
                        self.assertEqual(Operation.objects.all().db, "default")


class Decorators(TransactionTestCase):  # type: ignore[misc]  # as above
    def test_a_result_that_runs_later_is_refused(self) -> None:
        async def coroutine() -> None:
            self.fail("the body must not run")

        class Callable:
            async def __call__(self) -> None:
                await coroutine()

        def noted_and_later() -> Any:
            note("default")
            return coroutine()

        functions: tuple[Any, ...] = (Callable(), noted_and_later, lambda: iter_later(), lambda: aiter_later())  # noqa: PLW0108 - a generator function is refused before
        for function in functions:
            with self.assertRaisesRegex(ConfigurationError, "without the fence"):
                fenced(LEASE)(function)()
        self.assertEqual(Operation.objects.count(), 0)


def iter_later() -> Any:
    yield


async def aiter_later() -> Any:
    yield


if __name__ == "__main__":
    sys.exit(bool(DiscoverRunner(verbosity=1).run_tests(["__main__"])))
