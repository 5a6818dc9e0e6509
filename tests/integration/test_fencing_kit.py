"""Every fence of this package passes the conformance kit, at every isolation level of its database."""

from __future__ import annotations

import contextlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from _pytest.mark.structures import ParameterSet
from sqlalchemy import Engine

from redlock.fencing.conformance import Lease, Write, check_all
from redlock.testing.redis_server import Server
from tests.integration.databases import MYSQL
from tests.integration.fence_adapters import (
    SNAPSHOT_ISOLATION,
    AsyncAdapter,
    AsyncPsycopgAdapter,
    ConnectionAdapter,
    PsycopgAdapter,
    SessionAdapter,
    waits,
)
from tests.integration.fence_store_adapters import AsyncStoreAdapter, StoreAdapter
from tests.integration.tools import eventually

EXAMPLES = int(os.environ.get("FENCE_EXAMPLES", "3"))
"""Random interleavings of each fence at each level; `make soak` runs more."""
PATIENCE = 0.03
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
OF_PSYCOPG = (PsycopgAdapter, AsyncPsycopgAdapter)
CELLS: list[tuple[type[SessionAdapter], str, str]] = [
    *((kind, "postgresql", level) for kind in (SessionAdapter, ConnectionAdapter, AsyncAdapter) for level in LEVELS),
    *((kind, "postgresql", level) for kind in OF_PSYCOPG for level in LEVELS),
    *((kind, "mariadb", level) for kind in (SessionAdapter, ConnectionAdapter, AsyncAdapter) for level in LEVELS),
    (SessionAdapter, "mariadb", "READ UNCOMMITTED"),
    *(((SessionAdapter, "mariadb", SNAPSHOT_ISOLATION),) if not MYSQL else ()),
    *((kind, "sqlite", "") for kind in (SessionAdapter, ConnectionAdapter, AsyncAdapter)),
]


def cell(kind: type[SessionAdapter], database: str, level: str) -> ParameterSet:
    """A cell; of the other adapters only one isolation level is in the short runs."""
    short = kind is SessionAdapter or level in {"READ COMMITTED", ""}
    return pytest.param(kind, database, level, marks=[] if short else [pytest.mark.long(ci=True)])


@pytest.mark.parametrize(("kind", "database", "level"), [cell(*one) for one in CELLS], indirect=["database"])
def test_no_interleaving_loses_an_update(kind: type[SessionAdapter], level: str, leveled: Engine) -> None:
    seed = zlib.crc32(f"{kind.__name__} {leveled.dialect.name} {level}".encode())
    check_all(kind(leveled), patience=PATIENCE, examples=EXAMPLES, seed=seed)


@pytest.mark.parametrize(
    ("kind", "database", "level"),
    [(kind, "postgresql", "REPEATABLE READ") for kind in (ConnectionAdapter, AsyncAdapter, *OF_PSYCOPG)],
    indirect=["database"],
)
def test_a_conflict_at_the_fence_is_repeated(kind: type[SessionAdapter], leveled: Engine) -> None:
    """The next holder waits at its fence with a snapshot from before the commit. Its driver names the conflict."""
    adapter = kind(leveled)
    adapter.reset()

    def next_holder() -> int:
        with contextlib.closing(adapter.open()) as session, adapter.fenced(session, Lease(8, "next")):
            return adapter.read(session, "account")

    with ThreadPoolExecutor(1) as pool, contextlib.closing(adapter.open()) as session:
        with adapter.fenced(session, Lease(7, "first")):
            adapter.write(session, Write("account", 7, 0), 1)
            read = pool.submit(next_holder)
            eventually(lambda: waits(leveled), "the next holder at the row of the first")
        assert read.result(60) == 1


@pytest.mark.parametrize("kind", [StoreAdapter, AsyncStoreAdapter])
def test_no_interleaving_loses_an_update_in_redis(kind: type[StoreAdapter], broker: Server) -> None:
    check_all(kind(broker.url), patience=PATIENCE, examples=EXAMPLES)
