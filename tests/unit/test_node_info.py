"""`node_info`: INFO of Redis and of Valkey, whose fields have other names."""

from __future__ import annotations

import pytest

from redlock._transport import node_info

REDIS = b"# Server\r\nredis_version:8.2.3\r\nredis_mode:standalone\r\n"
VALKEY = b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nserver_mode:cluster\r\n"


@pytest.mark.parametrize(
    ("info", "server", "mode", "product", "version"),
    [
        (REDIS, "8.2.3", "standalone", "Redis 8.2.3", (8, 2)),
        (VALKEY, "Valkey 9.1.2", "cluster", "Valkey 9.1.2", (9, 1)),
        (b"", "", "", "Redis", None),
    ],
)
def test_redis_and_valkey_name_version_and_mode(
    info: bytes, server: str, mode: str, product: str, version: tuple[int, int] | None
) -> None:
    found = node_info.fields(info)
    assert (node_info.server(found), node_info.mode(found)) == (server, mode)
    assert (node_info.product(server), node_info.version(server)) == (product, version)


def test_a_hostile_version_is_shown_short_and_escaped() -> None:
    found = node_info.fields(b"redis_version:8.2\x1b[31m" + b"9" * 60_000 + b"\r\n")
    assert node_info.server(found) == "8.2\\x1b[31m" + "9" * 26 + "..."


@pytest.mark.parametrize("name", ["maxmemory_policy", "redis_mode", "role"])
def test_a_hostile_value_of_info_is_cut(name: str) -> None:
    assert len(node_info.fields(f"{name}:{'x' * 900_000}".encode())[name]) == 200


def test_a_hostile_setting_is_cut() -> None:
    assert len(node_info.setting([b"appendfsync", b"x" * 900_000]) or "") == 200


@pytest.mark.parametrize(
    "names", [[b"x" * 900_000], [b"BLPOP"] * 90_000, ["\u202e".encode() * 9], [b"a; lock2:1: down"]]
)
def test_invented_missing_permissions_are_not_repeated(names: list[bytes]) -> None:
    assert len("".join(node_info.missing([b"GET", *names]))) < 300
