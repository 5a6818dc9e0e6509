"""The recipes of `docs/fencing.md` as adapters of the conformance kit, and an HTTP server for them."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from redlock.fencing.conformance import Lease, Write
from tests.integration.pages import blocks
from tests.integration.tools import ROOT

NAMES = ("account", "acc", "ACC", "acc ")


def source(name: str) -> str:
    """The block of the page with this name."""
    (found,) = [block.text for block in blocks(ROOT / "docs" / "fencing.md") if block.name == name]
    return found


def recipe(name: str, *replaced: str) -> Any:
    """The block of the page as a module; a pair of texts plants a fault."""
    text = source(name)
    if replaced:
        assert replaced[0] in text
        text = text.replace(replaced[0], replaced[1])
    module = types.ModuleType(name.removesuffix(".py"))
    exec(compile(text, name, "exec"), vars(module))  # noqa: S102 - the page of this project
    return module


class ObjectStore(http.server.ThreadingHTTPServer):
    """Objects in memory with conditional writes and with external versions; in `no-bucket` are none."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.mutex = threading.Lock()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{quote(name)}"

    def content(self, name: str) -> Any:
        """The object, read beside the recipe; empty if there is none."""
        _, body = self.objects.get(f"/{quote(name)}", (0, b"{}"))
        return json.loads(body)


class Handler(http.server.BaseHTTPRequestHandler):
    """A request; each write of an object has a new ETag."""

    server: ObjectStore

    def do_GET(self) -> None:
        version, body = self.server.objects.get(urlsplit(self.path).path, (0, b""))
        self.answer(200 if version else 404, body, version)

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.mutex:
            version, _ = self.server.objects.get(parts.path, (0, b""))
            query = parse_qs(parts.query)
            if self.headers["Content-Type"] != "application/json":
                new, status = version, 406
            elif parts.path.startswith("/no-bucket/"):
                new, status = version, 404
            elif "version" in query:
                new = int(query["version"][0])
                status = 409 if new < version else 200
                body = json.dumps({"_version": new, "_source": json.loads(body)}).encode()
            else:
                new = version + 1
                fits = self.headers.get("If-Match") in (None, f'"{version}"')
                fits = fits and not (self.headers.get("If-None-Match") == "*" and version)
                status = 200 if fits else 412
            if status == 200:
                self.server.objects[parts.path] = new, body
        self.answer(status, b"", new)

    def answer(self, status: int, body: bytes, version: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{version}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class ObjectAdapter:
    """The recipe with `If-Match`: value and journal are the content of one object."""

    def __init__(self, module: Any, objects: ObjectStore) -> None:
        self.module, self.objects = module, objects

    def reset(self) -> None:
        self.objects.objects.clear()

    def open(self) -> Any:
        return types.SimpleNamespace()

    def close(self, session: Any) -> None: ...

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        read = {name: self.module.read(self.objects.url(name), lease) for name in lease.names}
        session.contents = {name: content or [0, []] for name, (_, content) in read.items()}
        session.changed = {}
        yield
        for name, content in session.changed.items():
            self.module.write(self.objects.url(name), lease, read[name][0], content)

    def look(self, session: Any, resource: str) -> None:
        self.content(resource)

    def read(self, session: Any, resource: str) -> int:
        return int(session.contents[resource][0])

    def write(self, session: Any, write: Write, value: int) -> None:
        session.changed[write.resource] = [value, [*session.contents[write.resource][1], write]]

    def retryable(self, error: Exception) -> bool:
        return type(error).__name__ == "Conflict"

    def content(self, resource: str) -> Any:
        return self.objects.content(resource).get("content", [0, []])

    def committed(self) -> list[Write]:
        return [Write(*write) for name in NAMES for write in self.content(name)[1]]

    def value(self, resource: str) -> int:
        return int(self.content(resource)[0])


class VersionedAdapter(ObjectAdapter):
    """The recipe with external versions, misused for a read and a write."""

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        session.contents, session.changed = {name: self.content(name) for name in lease.names}, {}
        yield
        for name, content in session.changed.items():
            self.module.put(self.objects.url(name), lease, content)

    def content(self, resource: str) -> Any:
        return self.objects.content(resource).get("_source", [0, []])


class FileAdapter(ObjectAdapter):
    """The recipe for files: value and journal are the text of one file."""

    def __init__(self, module: Any, directory: Path) -> None:
        self.module, self.directory = module, directory

    def reset(self) -> None:
        for file in self.directory.iterdir():
            file.unlink()

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            files = {name: self.module.fenced(self.path(name), lease) for name in lease.names}
            session.replace = {name: stack.enter_context(file) for name, file in files.items()}
            session.contents = {name: self.content(name) for name in lease.names}
            yield

    def write(self, session: Any, write: Write, value: int) -> None:
        content = [value, [*session.contents[write.resource][1], write]]
        session.replace[write.resource](json.dumps(content))

    def path(self, resource: str) -> Path:
        return self.directory / resource

    def content(self, resource: str) -> Any:
        path = self.path(resource)
        return json.loads(path.read_text()) if path.exists() else [0, []]
