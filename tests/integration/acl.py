"""The users of docs/operations.md on real servers, read from the page itself."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from redlock.testing.redis_server import Server
from tests.integration.tools import ROOT, raws


def documented(user: str) -> list[str]:
    """The rules of a user in the manual."""
    lines = (ROOT / "docs" / "operations.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"user {user} on ")]
    return line.split()[3:]


def commands(user: str) -> list[str]:
    """The commands of a user of the manual."""
    return [word[1:] for word in documented(user) if word.startswith("+")]


def unknown_commands(redis: Redis) -> set[str]:
    """The commands that the manual omits for a server of this age."""
    version = tuple(map(int, redis.info("server")["redis_version"].split(".")[:2]))
    return {"client|setinfo"} if version == (7, 0) else set()


def let_in(servers: Sequence[Server], user: str, secret: str, *without: str, keys: str = "") -> None:
    """Create the manual's user on these servers, without some of its commands or for other keys."""
    rules = [f">{secret}" if word.startswith(">") else word for word in documented(user)]
    rules = [keys if keys and word.startswith("~") else word for word in rules]
    for redis in raws(servers):
        left_out = {*without, *unknown_commands(redis)}
        known = [word for word in rules if word.removeprefix("+") not in left_out]
        redis.execute_command("ACL", "SETUSER", user, "reset", "on", *known)
        redis.acl_log_reset()
