"""The types that checkers must see, and the errors that they must find.

A line with an error has the comment that expects the error, for mypy and for pyright. Both checkers report a comment
without its error, so each line of this file is a check. `tests/integration/test_types.py` runs the checkers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task, shared_task
from celery.result import AsyncResult
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import assert_type

import redlock.asyncio
from redlock import Lease, LockHolder, Outcome, Redlock
from redlock.celery import client_for, current_lease, locked
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.fencing.sql import fenced
from redlock.testing import LockNode, LockNodes

app = Celery("shop", set_as_current=False)


def account_key(account_id: int, amount: float = 1.0) -> str:
    return f"account:{account_id}:{amount > 0}"


def account_keys(account_ids: list[int]) -> list[str]:
    return [f"account:{account_id}" for account_id in account_ids]


# The decorator keeps the signature of the body.
@locked("account:{account_id}", wait=0, on_conflict="raise")
def body(account_id: int, amount: float = 1.0, *, note: str = "") -> int:
    assert_type(current_lease(), Lease)
    assert_type(current_lease().fence, int)
    assert_type(current_lease().remaining(), float)
    current_lease().fencing_token = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return account_id + int(amount) + len(note)


assert_type(body(42), int)
assert_type(body(42, 2.5, note="tip"), int)
body()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
body("42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
body(42, 2.5, "tip")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
body(42, account=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
text: str = body(42)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


# The right order: @shared_task or @app.task above @locked.
@shared_task
@locked("account:{account_id}")
def charge(account_id: int, amount: float = 1.0) -> int:
    return account_id + int(amount)


assert_type(charge(42), int)
assert_type(charge.delay(42, amount=2.0).get(), int)
charge.delay("42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
charge.delay(42, 1.0, 2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
charge.delay(account=42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@shared_task(bind=True, acks_late=True)
@locked(["account:{source}", "account:{target}"], ttl=10.0, max_requeues=3)
def transfer(self: Task[Any, Any], source: int, target: int) -> str:
    return f"{self.name}: {source} to {target}"


transfer.delay(1, 2)
transfer.delay(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
transfer.delay(1, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# The stubs of `app.task` have no type for the arguments; only `@locked` below must fit.
@app.task
@locked(account_key, on_lost="raise", reentrant=True)
def report(account_id: int) -> None: ...


@app.task(bind=True)
@locked("account:{account_id}", max_hold=60)
def audit(self: Task[Any, Any], account_id: int) -> None:
    assert_type(self.request.retries, int)


result: AsyncResult[Any] = report.delay(42)


# The wrong order is no task; the import refuses it too.
@locked("account:{account_id}")
@shared_task
def upside_down(account_id: int) -> int:
    return account_id


assert_type(upside_down(42), int)
upside_down.delay(42)  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]

# Values that the decorator refuses.
names: list[str] = ["account:{account_id}", "audit"]
functions: tuple[Callable[[int], str], ...] = (account_key,)
locked(names)
locked(functions)
locked(account_keys)
locked("a", on_conflict="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
locked("a", on_lost="cancel")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
locked("a", ttl="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
locked("a", 10.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
locked("a", timeout=10.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
locked(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
locked()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@locked  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def bare(account_id: int) -> int:
    return account_id


# The lock for threads.
def threads() -> None:
    client = client_for(app)
    assert_type(client, Redlock)
    with (
        client as entered,
        entered.lock("a", blocking_timeout=1.0, on_lost=lambda lease: lease.ensure_valid()) as lease,
    ):
        assert_type(lease, Lease)
        assert_type(lease.extend(1.0), None)
        assert_type(lease.release(), Outcome)
    lock = client.lock(["a", "b"], ttl=10.0)
    assert_type(lock.acquire(blocking=False), bool)
    assert_type(lock.lease, Lease)
    assert_type(lock.locked(), bool)
    assert_type(client.holder("a"), LockHolder | None)
    client.lock("a", timeout=10.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.lock("a", on_lost="cancel")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.lock(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Redlock(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# The lock for event loops.
async def loops(nodes: list[str]) -> None:
    async with redlock.asyncio.Redlock(nodes) as client:
        assert_type(client, redlock.asyncio.Redlock)
        async with client.lock("a", on_lost="cancel") as lease:
            assert_type(lease, redlock.asyncio.Lease)
            assert_type(lease.fence, int)
            assert_type(await lease.extend(1.0), None)
            assert_type(await lease.release(), Outcome)
        lock = client.lock("a")
        assert_type(await lock.acquire(blocking_timeout=1.0), bool)
        assert_type(await lock.locked(), bool)
        assert_type(await client.holder("a"), LockHolder | None)
        with lock:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
            pass
        client.lock("a", on_lost="skip")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        acquired: bool = lock.acquire()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        assert acquired


# The fence.
def stores(store: FencedStore, lease: Lease) -> None:
    written = store.update("balance", lease, "op-1", lambda old: str(int(old or 0) + 1))
    assert_type(written.value, str)
    assert_type(written.applied, bool)
    assert_type(store.open("balance", lease).value, str | None)
    store.update("balance", 42, "op-1", str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    store.update("balance", lease, "op-1", int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def loop_stores(store: AsyncFencedStore, lease: redlock.asyncio.Lease) -> None:
    assert_type((await store.update("balance", lease, "op-1", lambda old: old or "0")).value, str)
    assert_type(await store.read_unfenced("balance"), str | None)
    await store.write("balance", "1", "op-1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def databases(lease: Lease) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, fenced(connection, lease, operation="op-1") as section:
        assert_type(section.fresh, bool)
    fenced(connection)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fenced(connection, 42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# A block may be the end of its function, because no block hides an exception.
def end_in_blocks(client: Redlock, connection: Connection, lease: Lease) -> int:
    with client, client.lock("a"), fenced(connection, lease):
        return 1


async def end_in_loop_blocks(client: redlock.asyncio.Redlock, session: AsyncSession, lease: Lease) -> int:
    async with client, client.lock("a"), fenced(session, lease):
        return 1


# The fixtures of the plugin.
def test_it(redlock_nodes: LockNodes, redlock_client: Redlock) -> None:
    assert_type(redlock_nodes[0], LockNode)
    assert_type(redlock_nodes.urls, list[str])
    assert_type(redlock_client.lock("a").acquire(), bool)
