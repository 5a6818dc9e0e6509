"""The page `Locks` in Flower: the held locks, their holders and waiters, and the state of the lock nodes.

Two lines in Flower's configuration file (`flowerconfig.py`, or the file of `--conf`) add the page to
`celery -A app flower`:

    import redlock.celery.flower
    redlock.celery.flower.add_page()

Invariants:
1. Only this package imports Flower, and no other module imports this package: the lock itself needs no Flower.
2. The page extends the handlers and settings in `flower.urls`, from which Flower's command builds the server. No
   function of Flower is replaced. Its own pages only get a link, and like the page they can't be framed.
3. Flower decides on access: the handlers derive from Flower's, with its authentication and its URL prefix.
4. A thread queries the nodes, once for all viewers at about the same time.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flower import urls
from flower.views import BaseHandler
from tornado.template import DictLoader
from tornado.web import OutputTransform, authenticated, url

from redlock._escaping import escape
from redlock.admin.cluster_status import cluster_status
from redlock.celery.client import settings_of
from redlock.celery.owner_label import task_and_worker
from redlock.errors import RedlockError

if TYPE_CHECKING:
    from celery import Celery
    from tornado.httputil import HTTPHeaders

    from redlock._locking.wait_report import Waiter
    from redlock.admin.cluster_status import LockInfo
    from redlock.admin.node_state import NodeState

_PAGES = Path(__file__).parent / "pages"
_FRESH_SECONDS = 0.5
_LINK = """
        <li class="nav-item">
          <a class="nav-link{% if active_tab == 'locks' %} active{% end %}" href="{{ reverse_url('locks') }}"
            {% if active_tab == 'locks' %}aria-current="page"{% end %}>Locks</a>
        </li>
      </ul>"""


def add_page() -> None:
    """Add the page to the Flower that this process starts later. A second call changes nothing.

    No web site may show a page of that Flower in a frame: a click on it could end a worker.
    """
    handlers: list[Any] = urls.handlers
    if any(getattr(handler, "name", None) == "locks" for handler in handlers):
        return
    # Before Flower's own handlers: the last of these matches every address.
    handlers[:0] = [
        url("/locks", LocksPage, name="locks"),
        url("/locks/data", LocksData, {"shared": SharedStatus()}, name="locks-data"),
    ]
    urls.settings["transforms"] = [*urls.settings.get("transforms", ()), _NoFrames]
    urls.settings["template_loader"] = DictLoader(_templates(Path(urls.settings["template_path"])))


def _templates(flowers: Path) -> dict[str, str]:
    """Flower's templates with a link to the page in the navigation bar, and the templates of the page."""
    found = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for root in (flowers, _PAGES)
        for path in root.rglob("*")
        if path.suffix in {".html", ".js"}
    }
    # The first list of the navigation bar has the pages. In a Flower without that list, only the link is missing.
    return found | {"navbar.html": found["navbar.html"].replace("</ul>", _LINK, 1)}


class _NoFrames(OutputTransform):
    """Forbids every web site to show a response in a frame."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002, FBT001 - Tornado's signature
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Add the headers."""
        headers["X-Frame-Options"] = "DENY"
        headers.add("Content-Security-Policy", "frame-ancestors 'none'")
        return status_code, headers, chunk


class SharedStatus:
    """The latest cluster status, shared by all viewers of the page."""

    def __init__(self) -> None:
        self._query: asyncio.Future[dict[str, Any]] | None = None
        self._until = 0.0

    async def latest(self, app: Celery) -> dict[str, Any]:
        """The data of the page. A query begins anew half a second after the begin of the last query.

        Raises:
            ConfigurationError: A lock setting of the app is invalid.
        """
        loop = asyncio.get_running_loop()
        if self._query is None or (self._query.done() and loop.time() >= self._until):
            self._until = loop.time() + _FRESH_SECONDS
            self._query = loop.run_in_executor(None, _read_status, app)
        # A viewer that disconnects must not cancel the query of the others.
        return await asyncio.shield(self._query)


def _read_status(app: Celery) -> dict[str, Any]:
    settings = settings_of(app)
    seen = cluster_status(settings.addresses, prefix=settings.prefix, max_ttl=settings.max_ttl)
    return {
        "locks": [_row(lock, lock.holder if lock.since else "") for lock in seen.locks],
        "waiters": [_row(waiter, waiter.waiter) for waiter in seen.waiters],
        "nodes": [_node(state, seen.clock_limit) for state in seen.nodes],
        "more": seen.more,
        "is_known": seen.is_known,
        "problem": seen.problem,
    }


def _row(entry: LockInfo | Waiter, label: str) -> dict[str, Any]:
    """A lock or a waiter, with the task and the worker of its label."""
    task, worker = task_and_worker(label)
    return dataclasses.asdict(entry) | {"task": task, "worker": worker}


def _node(state: NodeState, clock_limit: float) -> dict[str, Any]:
    health = "votes" if state.votes else "silent" if not state.reachable else "abstains" if state.abstains else "unfit"
    return {
        "name": state.label,
        "health": health,
        "says": escape(state.reason or state.unlisted),
        "clock_note": state.clock_note(clock_limit),
        "version": escape(state.version),
        "clock": state.clock_offset,
        "memory": state.used_memory,
    }


class _Handler(BaseHandler):  # type: ignore[misc]  # Flower is untyped
    """The common headers of all responses."""

    def set_default_headers(self) -> None:
        """Set Flower's headers, and forbid other sites to read the answers."""
        super().set_default_headers()
        # With an open API, Flower lets every site read its answers.
        self.clear_header("Access-Control-Allow-Origin")


class LocksPage(_Handler):
    """The page, which requests its data once a second."""

    @authenticated
    def get(self) -> None:
        """Respond with the page."""
        self.render("locks.html", refresh=self.application.options.auto_refresh)


class LocksData(_Handler):
    """The data of the page as JSON, or the key `error` if the lock's settings are invalid."""

    def initialize(self, shared: SharedStatus) -> None:
        """Store the status that the handlers of all requests share."""
        self._shared = shared

    @authenticated
    async def get(self) -> None:
        """Respond with the data."""
        self.set_header("Cache-Control", "no-store")
        try:
            self.write(await self._shared.latest(self.capp))
        except RedlockError as error:
            self.set_status(500)
            self.write({"error": str(error)})
