"""The loss of a lease in asyncio: callbacks, the cancelled block, the blocked loop."""

from __future__ import annotations

import asyncio
import contextlib
import select
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
import uvloop

from redlock import LockLost
from redlock._clock import now_ms
from redlock._core.protocol import inspect
from redlock._core.votes import Grant
from redlock._locking.lock_events import LockEventLog
from redlock._transport import asyncio as asyncio_driver
from redlock._transport import connection
from redlock._transport import connections as connections_module
from redlock._transport.asyncio import LoopConnections
from redlock._transport.connection import NodeConnection
from redlock._transport.loop_sockets import LoopSockets
from redlock.asyncio import Lease, Lock, Redlock, _cancel_scope
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, until
from tests.integration.tools import comes_true, is_free, run_out

NAME = "lost"
TTL = 3.0


@pytest.mark.parametrize("renew", [True, False])
async def test_a_callback_hears_of_the_loss(shared: Cluster, renew: bool) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        heard: list[Lease] = []
        with pytest.raises(LockLost):
            async with client.lock(NAME, renew=renew, on_lost=heard.append) as lease:
                run_out(shared.servers, NAME)
                await until(lambda: heard, "the callback is called")
                assert heard == [lease]
                assert lease.is_lost


async def test_a_callback_can_be_a_coroutine_function(shared: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def on_lost(lease: Lease) -> None:
        connections = lease._parts.connections
        await until(lambda: connections.is_closed, "the client closes")
        ended.append(lease.resource)
        raise ZeroDivisionError

    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock(NAME, on_lost=on_lost) as lease:
                run_out(shared.servers, NAME)
                await until(lambda: lease.is_lost, "lost")
    assert ended == [NAME], "`aclose` waits for the callback"
    assert "on-lost-failed resource=lost" in caplog.text


async def test_the_end_of_a_client_waits_for_a_callback_of_then(shared: Cluster) -> None:
    """An extension that is under way finds the loss while the client closes."""
    ended: list[str] = []

    async def on_lost(lease: Lease) -> None:
        connections = lease._parts.connections
        await until(lambda: connections.is_closed, "the client closes")
        ended.append(lease.resource)

    async with client_of(shared.urls, ttl=5.0) as client:
        lock = client.lock(NAME, on_lost=on_lost)
        await lock.acquire()
        run_out(shared.servers, NAME)
        extension = asyncio.create_task(lock.extend(TTL))
        await next_turn()
        await client.aclose()
        assert ended == [NAME]
        with pytest.raises(LockLost):
            await extension


@pytest.mark.usefixtures("way")
async def test_a_lost_block_is_cancelled(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock(NAME, on_lost="cancel"):
                run_out(shared.servers, NAME)
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        if _cancel_scope.COUNTS:
            assert task.cancelling() == 0
        await next_turn()


async def test_a_block_is_cancelled_at_its_max_hold(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(LockLost, match="max_hold is over"):
            async with client.lock(NAME, max_hold=0.5, on_lost="cancel") as lease:
                # A renewal that a pause of the machine delays beyond the deadline would give another reason.
                lease._parts.renewal.add(lease, now_ms())
                await asyncio.Event().wait()
        assert is_free(shared.servers, NAME)


@pytest.mark.usefixtures("way")
async def test_an_inner_block_is_cancelled_with_the_outer(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock(NAME, reentrant=True) as outer:
                with pytest.raises(LockLost):
                    async with client.lock(NAME, reentrant=True, on_lost="cancel"):
                        run_out(shared.servers, NAME)
                        await asyncio.Event().wait()
                assert outer.is_lost


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("outer", ["acquire", "block"])
async def test_an_inner_block_hears_of_the_end_of_its_lease(shared: Cluster, outer: str) -> None:
    """The outer lease is not renewed, and has no `on_lost` of its own."""
    heard: list[Lease] = []
    async with client_of(shared.urls, ttl=TTL) as client:
        lock = client.lock(NAME, renew=False)
        await (lock.acquire() if outer == "acquire" else lock.__aenter__())
        async with client.lock(NAME, reentrant=True, on_lost=heard.append):
            pass
        cancelled = client.lock(NAME, reentrant=True, on_lost="cancel")
        with pytest.raises(LockLost):
            async with cancelled, client.lock(NAME, reentrant=True, on_lost=heard.append) as inner:
                await until(lambda: False, "the cancellation", within=60)
        await until(lambda: heard, "the callback is called")
        assert heard == [inner], "the first block has ended before the loss"
        assert lock.lease.is_lost


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("first", ["outside", "loss", "loss, and then the turn of the task"])
async def test_a_cancellation_from_outside_wins(shared: Cluster, first: str) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        entered = asyncio.Event()

        async def work() -> None:
            async with client.lock(NAME, ttl=9, on_lost="cancel") as lease:
                entered.set()
                scope = lease._scope
                assert scope is not None
                lease._declare_lost("the test says so")
                loop, task = asyncio.get_running_loop(), asyncio.current_task()
                assert task is not None
                waits_for = loop.create_future()
                calls: list[Callable[[], object]] = [scope.cancel]
                if first == "outside":
                    calls.insert(0, task.cancel)
                elif first == "loss":
                    calls.append(task.cancel)
                else:
                    # Called after the loss, and right before the task runs.
                    waits_for.add_done_callback(lambda _: task.cancel())
                for call in calls:
                    loop.call_soon(call)
                await waits_for

        task = asyncio.create_task(work())
        await entered.wait()
        await asyncio.wait({task})
        assert task.cancelled()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [ZeroDivisionError, None], ids=["error", "swallowed"])
async def test_a_body_ends_its_cancellation_by_an_error_or_not(shared: Cluster, error: type[Exception] | None) -> None:
    """The error of the body wins; a body that swallows the cancellation loses its lock all the same."""
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(error or LockLost):
            async with client.lock(NAME, on_lost="cancel"):
                run_out(shared.servers, NAME)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if error is not None:
                        raise error from None
        await next_turn()


@pytest.mark.usefixtures("way")
async def test_an_extension_in_the_body_tells_by_its_own_error(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock(NAME, ttl=5, on_lost="cancel") as lease:
                run_out(shared.servers, NAME)
                await lease.extend(5)
        await next_turn()


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in Python 3.11")
async def test_a_timeout_around_a_block_is_a_timeout(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):  # type: ignore[attr-defined,unused-ignore]  # as of 3.11
                async with client.lock(NAME, ttl=9.0, on_lost="cancel"):
                    await asyncio.Event().wait()
        assert not await client.lock(NAME).locked()
        with pytest.raises(LockLost):
            async with asyncio.timeout(100), client.lock(NAME, on_lost="cancel"):  # type: ignore[attr-defined,unused-ignore]  # as of 3.11
                run_out(shared.servers, NAME)
                await asyncio.Event().wait()


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup is new in Python 3.11")
async def test_a_task_group_inside_a_lost_block_ends(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        ended = []

        async def child() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(1)

        with pytest.raises(LockLost):
            async with client.lock(NAME, on_lost="cancel"), asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]  # as of 3.11
                group.create_task(child())
                group.create_task(child())
                run_out(shared.servers, NAME)
        assert ended == [1, 1]

        with pytest.raises(BaseExceptionGroup) as caught:  # type: ignore[name-defined,unused-ignore]  # noqa: F821 - as of 3.11
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]  # as of 3.11
                group.create_task(child())
                async with client.lock(NAME, on_lost="cancel"):
                    run_out(shared.servers, NAME)
                    await asyncio.Event().wait()
        assert caught.group_contains(LockLost)


async def test_a_blocked_loop_finds_its_lease_lost(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        with pytest.raises(LockLost, match="its time was over"):
            async with client.lock(NAME) as lease:
                comes_true(lambda: lease.remaining() == 0, within=9.0)  # the loop is blocked on purpose
                assert lease.is_lost
                assert lease.remaining() == 0
                with pytest.raises(LockLost):
                    lease.ensure_valid()
                with pytest.raises(LockLost):
                    await lease.extend(1)
        lock = client.lock(NAME)
        await lock.acquire()
        comes_true(lambda: lock.lease.remaining() == 0, within=9.0)  # as above
        assert not await lock.owned()
        with pytest.raises(LockLost):
            await lock.release()


@pytest.mark.parametrize("seconds", [1.6, 3.4])
def test_a_loop_that_is_blocked_during_an_acquire_gets_a_lease(
    shared: Cluster, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """During the dials, before the send, or while the replies wait: no node counts as silent or down, and no expired
    grant is handed out. All loops are blocked at the same time.
    """

    async def main(name: str, turns: int | None) -> None:
        # Longer than a node needs on a busy machine, and shorter than the block.
        async with Redlock(shared.urls, node_timeout=1.5, ttl=3.2) as client:
            if turns is not None:
                await client.lock(name).locked()
                nodes = client._context.parts().connections.state.all
                await until(lambda: all(one.is_fit for one in nodes), "all are connected")
            lock = client.lock(name)
            task = asyncio.create_task(acquire(lock))
            for _ in range(turns or 0):
                await asyncio.sleep(0)  # exactly an iteration of the loop
            asyncio.get_running_loop().call_soon(time.sleep, seconds)
            await task

    async def acquire(lock: Lock) -> None:
        assert await lock.acquire()
        lock.lease.ensure_valid()
        # The block may come after the acquire.
        with contextlib.suppress(LockLost):
            await lock.release()

    def run_in(library: ModuleType, moment: str, turns: int | None) -> None:
        loop = library.new_event_loop()
        try:
            loop.run_until_complete(main(f"{library.__name__}: {moment}", turns))
        finally:
            loop.close()

    moments: dict[str, int | None] = {"dials": None, "send": 0, "replies": 3}
    ways = [(library, *moment) for library in (asyncio, uvloop) for moment in moments.items()]
    with ThreadPoolExecutor(len(ways)) as pool:
        for ended in [pool.submit(run_in, *way) for way in ways]:
            ended.result()
    assert not {"node-silent", "node-down"} & set(caplog.text.split())


async def test_a_grant_that_expired_on_its_way_is_not_handed_out(
    shared: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other code blocks the loop between the last reply and the next step of the task."""
    run, blocks = LoopConnections.run, [2.6]

    async def late(*arguments: Any) -> object:  # noqa: ANN401 - those of `run`
        result = await run(*arguments)
        if blocks:
            time.sleep(blocks.pop())  # noqa: ASYNC251 - the loop is blocked on purpose
        return result

    monkeypatch.setattr(LoopConnections, "run", late)

    async with client_of(shared.urls, ttl=2.5) as client:
        lock = client.lock(NAME)
        assert await lock.acquire()
        lock.lease.ensure_valid()
        await lock.release()
    assert not blocks


async def test_replies_that_arrived_count_at_the_deadline(shared: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of a round can come before the readers: the round reads once more before it gives up."""
    async with client_of(shared.urls) as client:
        assert not await client.lock(NAME).locked()
        connections = client._context.parts().connections
        execution = connections.start(inspect(NAME))
        connections.sockets.flush()
        for one in connections.state.all:
            select.select([one.handle.sock], [], [], 10)
        with monkeypatch.context() as patch:
            patch.setattr(asyncio_driver, "now_ms", lambda: now_ms() + 5_000)
            assert execution._tally is not None
            execution._overdue(execution._tally)
        assert execution.future.result().denied == 0
        assert execution.future.result().granted == 5


@pytest.mark.long(ci=True)
async def test_a_late_renewal_is_logged_once(shared: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(shared.urls, ttl=9.0) as client, client.lock(NAME) as lease:
        for _ in range(2):
            deadline_ms = lease._held().deadline_ms
            comes_true(lambda: lease.remaining() < 2.7, within=9.0)  # the loop is blocked on purpose
            await until(lambda before=deadline_ms: lease._held().deadline_ms > before, "renewed")  # type: ignore[misc]  # bound now
    assert caplog.text.count("renewal-late resource=lost") == 1
    assert "event loop is blocked" in caplog.text


async def test_leases_due_at_nearly_the_same_time_share_exchanges(
    shared: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, pieces = [0], [0]
    extended, write = LockEventLog.extended, LoopSockets._write

    def counted(journal: LockEventLog, resource: str, grant: Grant) -> None:
        renewed[0] += 1
        extended(journal, resource, grant)

    def counted_write(sockets: LoopSockets, connection: NodeConnection) -> None:
        pieces[0] += 1
        write(sockets, connection)

    monkeypatch.setattr(LockEventLog, "extended", counted)
    monkeypatch.setattr(LoopSockets, "_write", counted_write)

    async with client_of(shared.urls, ttl=9.0) as client:
        # Fewer than may be under way at a time: otherwise each reply would begin further renewals.
        leases = [await client.lock(f"shared:{number}").__aenter__() for number in range(60)]
        renewal = client._context.parts().renewal
        renewal._schedule._heap.clear()
        before, due_ms = pieces[0], now_ms() + 100
        for number, lease in enumerate(leases):
            renewal.add(lease, due_ms + number // 3)
        await until(lambda: renewed[0] >= 60, "a renewal of each")
        assert pieces[0] - before < 60, "a piece on each of five connections for each renewal is 300"
        assert not any(lease.is_lost for lease in leases)
        await asyncio.gather(*(lease.release() for lease in leases))


async def test_many_leases_that_are_due_at_once_lose_no_connection(
    shared: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a long block of the loop: a connection takes a limited number of commands at a time."""
    async with client_of(shared.urls, ttl=9.0) as client:
        leases = [await client.lock(f"many:{number}").__aenter__() for number in range(150)]
        connections = client._context.parts().connections.state.all
        handles = [one.handle for one in connections]
        deadlines = [lease._held().deadline_ms for lease in leases]
        # The loop is blocked on purpose, until a renewal of each lease is due.
        comes_true(lambda: all(lease.remaining() < 5.8 for lease in leases), within=9.0)
        for module in (connection, connections_module):
            monkeypatch.setattr(module, "MOST_PENDING", 149)
        await until(
            lambda: all(lease._held().deadline_ms > before for lease, before in zip(leases, deadlines, strict=True)),
            "all are renewed",
        )
        assert [one.handle for one in connections] == handles
        await asyncio.gather(*(lease.release() for lease in leases))
