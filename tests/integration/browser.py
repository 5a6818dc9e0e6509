"""A real headless browser, and the content of its page.

Invariants:
1. The commands go through a pipe, so the browser needs no port.
2. The browser has its own profile and ends with the `with` block.
3. On a machine without a browser, `needs_browser` skips the test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from typing_extensions import Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no browser")

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,960",
)
# Chromium reads commands from descriptor 3 and answers on 4.
_ON_ITS_PIPE = 'exec "$@" 3<&0 4>&1 >/dev/null'


class Browser:
    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        options = [*_OPTIONS, f"--user-data-dir={self._profile.name}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["sh", "-c", _ON_ITS_PIPE, "sh", str(CHROMIUM), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._numbers = itertools.count(1)
        self._session = ""
        return self

    def __exit__(self, *_: object) -> None:
        # After the pipe is closed, the browser ends together with its children.
        self._process.communicate(timeout=30)
        self._profile.cleanup()

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        command: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\0")
        self._process.stdin.flush()
        # Messages with other numbers are events.
        while (answer := self._answer()).get("id") != number:
            pass
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        read = bytearray()
        while (byte := self._process.stdout.read(1)) != b"\0":
            assert byte, "the browser has gone"
            read += byte
        answer: dict[str, Any] = json.loads(read)
        return answer

    @contextlib.contextmanager
    def page(self) -> Iterator[Self]:
        """An empty page, without the cookies and the cache of earlier pages."""
        context = self._ask("Target.createBrowserContext")["browserContextId"]
        target = self._ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        try:
            yield self
        finally:
            self._session = ""
            self._ask("Target.disposeBrowserContext", browserContextId=context)

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)

    def value(self, expression: str) -> Any:  # noqa: ANN401 - whatever the script gives
        """The value of a JavaScript expression in the page."""
        result = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def rows(self, table: str) -> list[list[str]]:
        """The text of each cell of a table; empty while the page has no such table."""
        rows = f"[...document.querySelectorAll('#{table} tbody tr')]"
        found: list[list[str]] = self.value(f"{rows}.map(row => [...row.cells].map(cell => cell.innerText))")
        return found
