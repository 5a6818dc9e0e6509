"""Simulated Redis servers that run the shipped scripts.

A server's clock is its wall clock, with an offset, a rate and jumps. A restart gives another run_id; the caller of the
restart decides which memory is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redlock._transport import codec
from redlock._transport.codec import SCRIPTS, Script
from redlock._transport.reply_reader import ReplyError

try:
    from lupa.luajit21 import LuaRuntime
except ImportError:
    from lupa.lua51 import LuaRuntime

if TYPE_CHECKING:
    from tests.sim.server import Session
    from tests.sim.world import World
    from tests.unit.helpers import Call

EPOCH_MS = 1_700_000_000_000


class Lua:
    """A Lua runtime with the scripts compiled once; `sources` replaces some of them, for variants."""

    def __init__(self, sources: Mapping[str, str] | None = None) -> None:
        self._runtime = LuaRuntime(unpack_returned_tuples=True)
        # Each server is a few closures, for which a compiled trace is never worth its compilation.
        self._runtime.execute("if jit then jit.off() end")
        module: Any = self._runtime.execute(Path(__file__).with_name("node.lua").read_text())
        self.server = module.server
        self._compile = module.script
        names = {kind: kind.__name__.lower() for kind in SCRIPTS}
        self._compiled: dict[bytes, Any] = {}
        self.wake = self._load(Script.load("wake"), "wake", sources)
        self.open = self._load(Script.load("open"), "open", sources)
        self.write = self._load(Script.load("write"), "write", sources)
        self.declare = self._load(Script.load("declare"), "declare", sources)
        for kind, script in SCRIPTS.items():
            self._compiled[script.sha] = self._load(script, names[kind], sources)

    def _load(self, script: Script, name: str, sources: Mapping[str, str] | None) -> Any:  # noqa: ANN401 - Lua's
        parts = codec.script_parts(name, admits=script.admits)
        text = "".join((sources or {}).get(part) or codec.script_part(part).decode() for part in parts)
        return self._compile(text)

    def by_text(self, source: bytes) -> Any:  # noqa: ANN401 - Lua's
        """Another script, ready to run."""
        compiled = self._compiled.get(source)
        if compiled is None:
            compiled = self._compiled[source] = self._compile(source.decode())
        return compiled

    def by_sha(self, sha: bytes) -> Any:  # noqa: ANN401 - Lua's
        """A shipped script, or its variant, ready to run."""
        return self._compiled[sha]


class Node:
    """A server: a lock node, or the store."""

    def __init__(self, world: World, lua: Lua, place: int) -> None:
        self.world = world
        self.place = place
        self.lua = lua
        self._server = lua.server()
        self._run, self._reply = self._server.run, self._server.reply
        self.up = True
        self.frozen_until = 0
        self.restarts = 0
        self.run_id = f"run{place}x0"
        """Another one after every restart."""
        self.rate = 1_000_000
        self.offset_ms = EPOCH_MS
        self.lost_at: list[int] = []
        """The times of its losses of memory."""
        self.snapshot: Any = None
        self.mood = ""
        """How the server misbehaves towards its clients, see `network`; empty if it behaves well."""
        self.scripts: set[bytes] = set()
        """The scripts that it knows."""
        self.blocked: list[Session] = []
        """The connections with a blocking read, the oldest read first."""

    def time_ms(self) -> int:
        """The server's wall clock."""
        return self.offset_ms + self.world.now * self.rate // 1_000_000_000

    def change_rate(self, rate: int) -> None:
        """From now on the clock runs at this rate, in parts per million, without a jump."""
        shown = self.time_ms()
        self.rate = rate
        self.offset_ms += shown - self.time_ms()

    def declare(self) -> None:
        """Let the node vote at once."""
        self._server.run(self.lua.declare, self.time_ms(), 1, codec.RECORD, self.run_id)

    def call(self, call: Call, run_id: str) -> list[Any] | Exception:
        """Run a script of the lock, as over a connection to this run of the server."""
        script, keys, arguments = call
        last = (run_id,) if script.admits else ()
        return self.run_words(self.lua.by_sha(script.sha), len(keys), (*keys, *arguments, *last))

    def run_words(self, compiled: Any, keys: int, words: Sequence[str | bytes]) -> list[Any] | Exception:  # noqa: ANN401 - Lua's
        """Run a script with this number of keys, then arguments."""
        values = self._run(compiled, self.time_ms(), keys, *words)
        return ReplyError(values[1]) if values[0] is None else list(values[1:])

    def encoded_reply(self, compiled: Any, keys: int, words: Sequence[bytes]) -> bytes:  # noqa: ANN401 - Lua's
        """Run a script likewise, and return the reply in the Redis protocol."""
        reply: str = self._reply(compiled, self.time_ms(), keys, *words)
        return reply.encode()

    def pop(self, key: str) -> str | None:
        """LPOP."""
        item: str | None = self._server.pop(key, self.time_ms())
        return item

    def store(self, door: str, keys: tuple[str, ...], arguments: tuple[str, ...]) -> list[Any] | Exception:
        """Run a script of the store."""
        compiled = self.lua.open if door == "open" else self.lua.write
        return self.run_words(compiled, len(keys), (*keys, *arguments))

    def get(self, key: str) -> str | None:
        """A string, read from outside."""
        value: str | None = self._server.get(key, self.time_ms())
        return value

    def field(self, key: str, name: str) -> str | None:
        """A hash's field, read from outside."""
        value: str | None = self._server.field(key, name, self.time_ms())
        return value

    def fingerprint(self) -> str:
        """The configuration fingerprint of this server; empty if none is stored."""
        known = self.field(codec.RECORD, "run_id") == self.run_id
        return (self.field(codec.RECORD, "fingerprint") or "") if known else ""

    def set(self, key: str, value: str) -> None:
        """A string from before the schedule began."""
        self._server.set(key, value)

    def count(self, prefix: str) -> int:
        """How many keys begin like this."""
        return int(self._server.count(prefix, self.time_ms()))

    def delete(self, key: str) -> None:
        """A key is gone: deleted by hand, or evicted."""
        self._server.delete(key)

    def save(self) -> None:
        """Take a snapshot, for `restart` to go back to."""
        self.snapshot = self._server.snapshot()

    def flush(self) -> None:
        """FLUSHALL."""
        self._server.flush()
        self.lost_at.append(self.world.now)

    def stop(self) -> None:
        """SIGKILL: connections end, nothing is answered."""
        self.up = False
        self.restarts += 1
        self.run_id = f"run{self.place}x{self.restarts}"
        self.scripts.clear()

    def restart(self, memory: str) -> None:
        """Start again with `all` keys, with `none`, or with an `old` snapshot."""
        self.up = True
        if memory == "none" or (memory == "old" and self.snapshot is None):
            self._server.flush()
        elif memory == "old":
            self._server.restore(self.snapshot)
        if memory != "all":
            self.lost_at.append(self.world.now)
