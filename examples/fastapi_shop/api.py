"""The service: `uvicorn api:app`. Its endpoints share the locks of the tasks in `shop.py`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException
from shop import CLOSED, NODES, REDIS, charge

from redlock import LockContended, QuorumUnavailable
from redlock.asyncio import Redlock
from redlock.fencing import AsyncFencedStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """All requests of this process share a client of the lock and a client of the store."""
    async with Redlock(NODES, node_timeout=0.5) as app.state.redlock, AsyncFencedStore(f"{REDIS}/2") as app.state.store:
        yield


app = FastAPI(lifespan=lifespan)


# Celery's client blocks. FastAPI runs this endpoint in a thread, because the endpoint is no coroutine.
@app.post("/accounts/{account_id}/charges", status_code=202)
def send_charge(account_id: int, amount: int) -> dict[str, str]:
    """Charge an account later, in a worker."""
    return {"task": charge.delay(account_id, amount).id}


@app.post("/accounts/{account_id}/close")
async def close(account_id: int) -> dict[str, int]:
    """Close an account, unless a task charges the account; returns the fencing token."""
    name = f"account:{account_id}"
    try:
        async with app.state.redlock.lock(name, blocking_timeout=0.2) as lease:
            await app.state.store.update(name, lease, f"close:{account_id}", lambda _: CLOSED)
            return {"token": lease.fence}
    except LockContended:
        raise HTTPException(409, "the account is being charged", {"Retry-After": "1"}) from None
    except QuorumUnavailable:
        raise HTTPException(503, "try again later", {"Retry-After": "1"}) from None


@app.get("/accounts/{account_id}")
async def show(account_id: int) -> dict[str, str]:
    """The amount that an account owes, or `closed`."""
    return {"owes": await app.state.store.read_unfenced(f"account:{account_id}") or "0"}
