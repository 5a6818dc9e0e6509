"""A Django project in one file, and its own tests of the fence: `python django_fence.py TABLE_OF_DATABASES_AS_JSON`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from unittest import mock

import django
import pymysql
from django.conf import settings

pymysql.install_as_MySQLdb()
settings.configure(
    DATABASES=json.loads(sys.argv.pop(1)),
    INSTALLED_APPS=["redlock.fencing.django"],
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["testserver"],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.core.management import call_command
from django.db import DatabaseError, connection, connections, transaction
from django.http import HttpResponse
from django.test import Client, SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.test.runner import DiscoverRunner
from django.urls import path
from psycopg import IsolationLevel

from redlock.errors import ConfigurationError, LockLost, Stale
from redlock.fencing import _statements
from redlock.fencing.conformance import Lease, Write, check_all
from redlock.fencing.django import fenced, purge_operations
from redlock.fencing.django.models import Fence, Operation

NAMES = {"account": "account", "acc": "acc-lower", "ACC": "acc-upper", "acc ": "acc-blank"}
LEASE, LATE = Lease(7, "me"), Lease(6, "late")


def run(statement: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall()) if cursor.description else []


def deposit(_request: Any) -> HttpResponse:
    """A view that is fenced."""
    with fenced(LEASE) as section:
        return HttpResponse(str(section.token))


@transaction.non_atomic_requests
def plain(request: Any) -> HttpResponse:
    """The same, as it has to be under ATOMIC_REQUESTS."""
    return deposit(request)


urlpatterns = [path("atomic", deposit), path("plain", plain)]


class Replicas:
    """A router that reads from a replica."""

    def db_for_read(self, _model: Any, **_hints: Any) -> str:
        return "replica"

    def db_for_write(self, _model: Any, **_hints: Any) -> str:
        return "default"


class Expired(Lease):
    def remaining(self) -> float:
        return 0.0


def assert_refused(words: str, lease: Any = LEASE, error: type[Exception] = ConfigurationError, **options: Any) -> None:
    """Check that the fence raises this error before the body."""
    case = SimpleTestCase()
    with case.assertRaisesRegex(error, words), fenced(lease, **options):
        case.fail("the body must not run")


class Adapter:
    """Django for the conformance kit; each thread has a connection of its own."""

    def reset(self) -> None:
        for table in ("journal", "redlock_fence", "redlock_operation"):
            run(f"DELETE FROM {table}")

    def open(self) -> Any:
        return connections["default"]

    def close(self, session: Any) -> None:
        session.close()

    def fenced(self, _session: Any, lease: Lease) -> Any:
        return fenced(lease, lock_timeout=20)

    def look(self, _session: Any, resource: str) -> None:
        self.value(resource)

    def read(self, _session: Any, resource: str) -> int:
        return int(run("SELECT count(*) FROM journal WHERE resource = %s", NAMES[resource])[0][0])

    def write(self, _session: Any, write: Write, _value: int) -> None:
        run("INSERT INTO journal (resource, token, seen) VALUES (%s, %s, %s)", NAMES[write.resource], *write[1:])

    def retryable(self, error: Exception) -> bool:
        return _statements.code_of(error) in _statements.RETRYABLE

    def committed(self) -> list[Write]:
        resources = {name: resource for resource, name in NAMES.items()}
        rows = run("SELECT resource, token, seen FROM journal")
        return [Write(resources[name], token, seen) for name, token, seen in rows]

    def value(self, resource: str) -> int:
        return max((write.read + 1 for write in self.committed() if write.resource == resource), default=0)


# MariaDB and MySQL call the variable differently.
ISOLATION = "SHOW VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation')"
LEVELS: dict[str, tuple[Any, ...]] = {
    "sqlite": (None,),
    "mysql": ("read uncommitted", "read committed", "repeatable read", "serializable"),
    "postgresql": (IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE),
}


def isolation_level() -> str:
    """The level of a transaction, from the database."""
    told = {"postgresql": "SHOW transaction_isolation", "mysql": ISOLATION, "sqlite": "SELECT 'none'"}
    with transaction.atomic():
        return str(run(told[connection.vendor])[0][-1]).lower().replace("-", " ")


class Conformance(TransactionTestCase):  # type: ignore[misc]  # Django has no types
    def test_no_interleaving_loses_an_update(self) -> None:
        run("CREATE TABLE journal (resource varchar(40), token bigint, seen integer)")
        examples = int(os.environ.get("FENCE_EXAMPLES", "3"))
        for seed, level in enumerate(LEVELS[connection.vendor]):
            options = {"isolation_level": level} if level else {}
            with self.subTest(level), mock.patch.dict(connection.settings_dict["OPTIONS"], options):
                connection.close()
                self.assertEqual(isolation_level(), str(getattr(level, "name", level)).lower().replace("_", " "))
                check_all(Adapter(), patience=0.03, examples=examples, seed=seed)
        connection.close()


class Transactions(TransactionTestCase):  # type: ignore[misc]  # Django has no types
    def test_a_stale_token_is_refused(self) -> None:
        with fenced(LEASE):
            pass
        assert_refused("the store has seen 7", LATE, Stale)
        self.assertFalse(connection.in_atomic_block)
        self.assertEqual(Fence.objects.count(), 1)

    def test_an_exception_rolls_back_and_on_commit_runs_once(self) -> None:
        called = []
        with self.assertRaises(ZeroDivisionError), fenced(LEASE, operation="op"):
            transaction.on_commit(lambda: called.append("rolled back"))
            raise ZeroDivisionError
        for _ in range(2):
            with fenced(LEASE, operation="op") as section:
                transaction.on_commit(lambda fresh=section.fresh: called.append(fresh))
        self.assertEqual(called, [True, False])

    def test_nested_blocks_are_refused(self) -> None:
        with transaction.atomic():
            assert_refused("non_atomic_requests")
        with fenced(LEASE):
            assert_refused("has an open fenced block already")
        with fenced(LEASE), transaction.atomic():
            Operation.objects.count()

    def test_autocommit_off_is_refused(self) -> None:
        transaction.set_autocommit(False)
        try:
            assert_refused("autocommit is off")
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)

    def test_bad_arguments_are_refused(self) -> None:
        assert_refused("expired before the fenced transaction began$", Expired(7, "me"), LockLost)
        assert_refused("fencing token 0 cannot be used; .*$", Lease(0, "me"))
        assert_refused("has 1025 bytes; 1024 are the most$", Lease(7, "me", ("x" * 1_025,)))
        assert_refused("1 to 255 characters", operation="")
        self.assertEqual(Fence.objects.count(), 0)

    def test_a_read_only_database_is_named(self) -> None:
        setting = {
            "postgresql": ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off"),
            "mysql": ("SET SESSION TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ WRITE"),
            "sqlite": ("PRAGMA query_only = ON", "PRAGMA query_only = OFF"),
        }[connection.vendor]
        run(setting[0])
        try:
            assert_refused("is read-only; a fenced transaction needs the primary", operation="op")
        finally:
            run(setting[1])
        self.assertFalse(connection.in_atomic_block)
        self.assertEqual((Fence.objects.count(), Operation.objects.count()), (0, 0))

    def test_a_decorated_function_has_a_block_for_each_call(self) -> None:
        tokens = iter((7, 9, 8))

        @fenced(lambda: Lease(next(tokens), "me"))
        def work() -> bool:
            """Work."""
            return bool(connection.in_atomic_block)

        self.assertEqual((work(), work(), work.__doc__), (True, True, "Work."))
        with self.assertRaises(Stale):
            work()

    def test_a_missing_table_is_named_with_its_statement(self) -> None:
        run("ALTER TABLE redlock_fence RENAME TO elsewhere")
        try:
            assert_refused("CREATE TABLE redlock_fence")
        finally:
            run("ALTER TABLE elsewhere RENAME TO redlock_fence")

    def test_old_operations_are_purged(self) -> None:
        for name in ("op-1", "op-2"):
            with fenced(LEASE, operation=name):
                pass
        Operation.objects.filter(operation_id="op-1").update(at="2020-01-01T00:00:00Z")
        purge_operations()
        self.assertEqual([one.operation_id for one in Operation.objects.all()], ["op-2"])

    def test_atomic_requests_are_refused(self) -> None:
        connection.settings_dict["ATOMIC_REQUESTS"] = True
        try:
            with self.assertRaisesRegex(ConfigurationError, "non_atomic_requests"):
                Client().get("/atomic")
            self.assertEqual(Client().get("/plain").content, b"7")
        finally:
            connection.settings_dict["ATOMIC_REQUESTS"] = False

    def test_replicas_are_refused_without_the_router(self) -> None:
        with override_settings(DATABASE_ROUTERS=["__main__.Replicas"]):
            assert_refused("Replicas chooses where to read")
        self.assertEqual(Fence.objects.count(), 0)

    def test_the_router_reads_from_the_fenced_database(self) -> None:
        routers = ["redlock.fencing.django.FencedRouter", "__main__.Replicas"]
        with override_settings(DATABASE_ROUTERS=routers):
            self.assertEqual(Operation.objects.all().db, "replica")
            with fenced(LEASE):
                self.assertEqual(Operation.objects.all().db, "default")
            assert_refused("", LATE, Stale)
            self.assertEqual(Operation.objects.all().db, "replica")

    def test_a_body_that_ends_the_transaction_is_told(self) -> None:
        with self.assertRaisesRegex(ConfigurationError, "ended inside the block"), fenced(LEASE):
            run("COMMIT")
        self.assertFalse(connection.in_atomic_block)
        if connection.vendor == "postgresql":
            with self.assertRaisesRegex(ConfigurationError, "its error was caught"), fenced(LEASE):
                with self.assertRaises(DatabaseError):
                    run("SELECT nothing")

    def test_functions_that_run_later_are_refused(self) -> None:
        async def coroutine() -> None: ...

        def generator() -> Any:
            yield

        async def asynchronous_generator() -> Any:
            yield

        for function in (coroutine, generator, asynchronous_generator):
            with self.assertRaisesRegex(ConfigurationError, "use a plain function"):
                fenced(LEASE)(function)

    def test_a_nested_atomic_block_may_roll_back(self) -> None:
        with fenced(LEASE, operation="op"):
            with self.assertRaises(ZeroDivisionError), transaction.atomic():
                Operation.objects.create(operation_id="inner", at="2020-01-01T00:00:00Z")
                raise ZeroDivisionError
            Operation.objects.create(operation_id="outer", at="2020-01-01T00:00:00Z")
        self.assertEqual(sorted(Operation.objects.values_list("operation_id", flat=True)), ["op", "outer"])

    def test_no_migration_is_missing(self) -> None:
        call_command("makemigrations", "--check", "--dry-run", verbosity=0)


ALIASES = ("default", "other")


class TwoDatabases(TransactionTestCase):  # type: ignore[misc]  # as above
    databases = ("default", "other", "replica")

    def work(self, *, fail: str = "") -> list[bool]:
        """A task that writes to both databases; whether each block was fresh."""
        with fenced(LEASE, operation="task") as outer:
            with fenced(LEASE, using="other", operation="task") as inner:
                if inner.fresh:
                    note("other")
                if fail == "inside":
                    raise ZeroDivisionError
            if outer.fresh:
                note("default")
            if fail == "between":
                raise ZeroDivisionError
            if fail == "commit":
                run("ROLLBACK")
        return [outer.fresh, inner.fresh]

    def notes(self) -> tuple[int, int]:
        return tuple(Operation.objects.using(alias).filter(operation_id="noted").count() for alias in ALIASES)

    def test_a_nested_block_is_written_in_both(self) -> None:
        self.assertEqual((self.work(), self.notes()), ([True, True], (1, 1)))
        self.assertEqual((self.work(), self.notes()), ([False, False], (1, 1)))

    def test_a_failure_inside_both_writes_nothing(self) -> None:
        with self.assertNoLogs("redlock"), self.assertRaises(ZeroDivisionError):
            self.work(fail="inside")
        self.assertEqual((self.notes(), self.work()), ((0, 0), [True, True]))

    def test_half_of_the_work_is_logged_and_completed(self) -> None:
        for fail, error in (("between", ZeroDivisionError), ("commit", ConfigurationError)):
            with self.subTest(fail):
                with self.assertLogs("redlock", "WARNING") as logs, self.assertRaises(error):
                    self.work(fail=fail)
                self.assertIn("partly-committed resource=account operation=task committed=task", logs.output[0])
                self.assertEqual((self.notes(), self.work(), self.notes()), ((0, 1), [True, False], (1, 1)))
            for alias in ALIASES:
                Operation.objects.using(alias).all().delete()

    def test_a_stale_inner_block_rolls_the_outer_back(self) -> None:
        with fenced(Lease(9, "later"), using="other"):
            pass
        with self.assertLogs("redlock", "WARNING") as logs, self.assertRaises(Stale):
            self.work()
        self.assertEqual([line.split()[0] for line in logs.output], ["WARNING:redlock:STALE"])
        self.assertEqual((self.notes(), Fence.objects.count()), ((0, 0), 0))

    def test_nested_blocks_without_operation_ids_are_refused(self) -> None:
        for outer, inner in ((None, None), ("op", None), (None, "op")):
            with self.assertRaisesRegex(ConfigurationError, "give both blocks an operation id"):
                with fenced(LEASE, operation=outer), fenced(LEASE, using="other", operation=inner):
                    self.fail("the body must not run")
        self.assertEqual([Fence.objects.using(alias).count() for alias in ALIASES], [0, 0])

    def test_two_decorators_are_refused_unless_in_sequence(self) -> None:
        @fenced(lambda: LEASE)
        @fenced(lambda: LEASE, using="other")
        def both() -> None:
            self.fail("the body must not run")

        with self.assertRaisesRegex(ConfigurationError, "give both blocks an operation id"):
            both()
        with self.assertRaisesRegex(ConfigurationError, "the same in every call"):
            fenced(LEASE, operation="op")(both)
        for alias in ALIASES:
            fenced(LEASE, using=alias)(lambda alias=alias: note(alias))()
        self.assertEqual(self.notes(), (1, 1))

    def test_another_alias_of_the_same_database_is_refused(self) -> None:
        with fenced(LEASE, operation="op"):
            words = "'replica' has an open fenced block already, as 'default'"
            assert_refused(words, using="replica", operation="op")

    def test_a_plain_atomic_block_of_another_database_is_no_fence(self) -> None:
        with transaction.atomic(using="other"):
            note("other")
            with fenced(LEASE), transaction.atomic(using="other"):
                note("default")
        self.assertEqual(self.notes(), (1, 1))


def note(alias: str) -> None:
    Operation.objects.using(alias).create(operation_id="noted", at="2020-01-01T00:00:00Z")


class TwoDatabasesInATestCase(TestCase):  # type: ignore[misc]  # as above
    databases = ("default", "other")

    def test_a_nested_block_runs_in_savepoints(self) -> None:
        with fenced(LEASE, operation="op"), fenced(LEASE, using="other", operation="op"):
            note("other")
        self.assertEqual(Operation.objects.using("other").count(), 2)


class InATestCase(TestCase):  # type: ignore[misc]  # as above
    def test_the_fence_runs_in_a_savepoint(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks, fenced(LEASE):
            transaction.on_commit(lambda: None)
        self.assertEqual(len(callbacks), 1)
        assert_refused("", LATE, Stale)
        self.assertEqual(Fence.objects.get().token, 7)


if __name__ == "__main__":
    sys.exit(bool(DiscoverRunner(verbosity=1).run_tests(["__main__"])))
