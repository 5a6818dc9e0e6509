"""Nodes that can't be lock nodes: each is named with one clear reason, and no message holds a password."""

from __future__ import annotations

import logging
import pickle
import socket
import socketserver
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from redlock import QuorumUnavailable, Redlock
from redlock._escaping import escape
from redlock._transport.node import Node, UnsuitableNode, describe_failure
from redlock.testing.redis_server import Cluster, cluster, free_port
from tests.integration.threads import serving
from tests.integration.tools import (
    CANARY,
    LASTING,
    client_of,
    eventually,
    is_free,
    label,
    new_server,
    raws,
    sixth_redis,
)

NAME = "device:5"


@contextmanager
def no_redis(answer: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """The address of a server that is not Redis and answers like this; None closes the connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(100)
            with suppress(OSError):
                while data := self.request.recv(65_536):
                    said = answer(data)
                    if said is None:
                        return
                    self.request.sendall(said)

    class Listening(socketserver.ThreadingTCPServer):
        daemon_threads = True

    listening = Listening(("127.0.0.1", 0), Handler)
    with serving(listening):
        yield f"127.0.0.1:{listening.server_address[1]}"


def reason(address: str, **options: Any) -> str:  # noqa: ANN401 - the options of a client
    """The reason for the missing vote of a single node."""
    with pytest.warns(UserWarning, match="one lock node"):
        client = client_of([address], **options)
    with client, pytest.raises(QuorumUnavailable) as caught:
        client.lock(NAME, blocking=False).__enter__()
    (why,) = caught.value.reasons.values()
    (name,) = caught.value.reasons
    assert f"{name}: {why}" in str(caught.value), "the message names the node and says why"
    assert_no_secret(str(caught.value), repr(caught.value), pickle.dumps(caught.value).decode("latin-1"))
    assert_no_secret("".join(traceback.format_exception(caught.value)))
    return why


def assert_no_secret(*texts: str) -> None:
    """None of these texts holds the password."""
    for text in texts:
        assert CANARY not in text


@pytest.fixture(autouse=True)
def _no_password_is_ever_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for record in [*caplog.get_records("setup"), *caplog.get_records("call")]:
        assert_no_secret(record.getMessage(), repr(record.__dict__))


def test_a_port_without_a_server() -> None:
    assert reason(f"redis://:{CANARY}@127.0.0.1:{free_port()}") == "connection refused"


def test_a_socket_that_is_not_there() -> None:
    assert reason(f"unix:///nowhere/redis.sock?password={CANARY}") == "no such file or directory"


PASSWORD = ("--requirepass", "the right one")
USER, LIMITED = f"?username=limited&password={CANARY}", ("--user", "limited", "on", f">{CANARY}")


@pytest.mark.parametrize(
    ("options", "address", "said"),
    [
        (PASSWORD, f"?password={CANARY}", "wrong user name or password"),
        (PASSWORD, f"?username=nobody&password={CANARY}", "wrong user name or password"),
        (("--requirepass", CANARY), "", "wants a password; put it into the node's URL"),
        ((*LIMITED, "~*", "+@all", "-@scripting"), USER, "the user may not run what the lock needs"),
        ((*LIMITED, "~device:*", "+@all"), USER, "the user may not run what the lock needs"),
    ],
    ids=["wrong password", "wrong user", "no password", "no scripts", "not the lock's own keys"],
)
def test_a_user_that_a_node_refuses(options: tuple[str, ...], address: str, said: str) -> None:
    with new_server(*options) as server:
        assert reason(f"{server.url}{address}") == said


def test_a_replica() -> None:
    with sixth_redis() as master, new_server("--replicaof", "127.0.0.1", str(master.port)) as server:
        assert reason(server.url) == f"a replica of 127.0.0.1:{master.port}; lock nodes must be independent masters"


def test_a_node_that_becomes_a_replica_while_it_is_used(nodes: Cluster, client: Redlock) -> None:
    with client.lock(NAME):
        pass
    with sixth_redis() as master:
        for redis in raws(nodes.servers[:3]):
            redis.replicaof("127.0.0.1", master.port)

        with pytest.raises(QuorumUnavailable) as caught:
            client.lock(NAME).acquire(blocking=False)

    assert set(caught.value.reasons) == {label(server) for server in nodes.servers[:3]}
    assert all("replica" in why for why in caught.value.reasons.values())


def test_a_node_in_cluster_mode() -> None:
    with sixth_redis("--cluster-enabled", "yes") as server:
        assert reason(server.url) == "in cluster mode; lock nodes must be independent masters"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", id="a web server"),
        pytest.param(lambda _: b"220 mail.example.org ESMTP\r\n", id="a mail server"),
        pytest.param(lambda _: b"SSH-2.0-OpenSSH_9.9\r\n", id="an SSH server"),
        pytest.param(lambda _: b"ERROR\r\n" * 20, id="memcached"),
        pytest.param(lambda _: b"+OK\r\n" * 20, id="something that says OK to everything"),
        pytest.param(lambda _: b":1\r\n" * 20, id="something that says 1 to everything"),
        pytest.param(lambda _: b"$-1\r\n" * 20, id="something that says nil to everything"),
        pytest.param(lambda _: b"\xff\xfe\x00" * 20, id="something binary"),
        pytest.param(lambda data: data, id="an echo server"),
        pytest.param(lambda _: None, id="something that hangs up"),
        pytest.param(lambda _: b"", id="something that says nothing", marks=pytest.mark.long(ci=True)),
    ],
)
def test_a_server_that_is_not_redis(answer: Callable[[bytes], bytes | None]) -> None:
    with no_redis(answer) as address:
        reason(f"redis://:{CANARY}@{address}")
        why = reason(f"redis://{address}")

    assert why, "there has to be a reason"
    assert why != "not connected yet"
    assert "replica" not in why


def test_a_silent_server_costs_one_timeout_only() -> None:
    with no_redis(lambda _: b"") as address:
        assert reason(address, node_timeout=0.05) == "no answer within 50 ms"


@pytest.mark.parametrize(
    ("version", "mode", "said"),
    [
        ("5.0.14", "redis_mode:standalone", "Redis 5.0.14; lock nodes need 6.2 or later"),
        ("6.0.20", "redis_mode:standalone", "Redis 6.0.20; lock nodes need 6.2 or later"),
        ("8.2.0", "redis_mode:sentinel", "in sentinel mode; lock nodes must be independent masters"),
        ("7.2.4", "server_mode:cluster", "in cluster mode; lock nodes must be independent masters"),
    ],
)
def test_a_server_that_reports_an_unsuitable_state(version: str, mode: str, said: str) -> None:
    info = f"redis_version:{version}\r\n{mode}\r\nrole:master\r\nrun_id:{'0' * 40}\r\n"
    reply = f"${len(info)}\r\n{info}\r\n" * 2 + "$1\r\nx\r\n" * 20

    with no_redis(lambda _: reply.encode()) as address:
        assert reason(address) == said


@pytest.mark.parametrize(
    "line",
    [
        b"role:slave\r\nmaster_host:\xff\x1b[2J\x07\xe2\x80\xae",
        b"role:slave\r\nmaster_port:\x1b[2J",
        b"redis_mode:\xff\x1b[2J\x07",
        b"redis_version:5.0\xff\x1b[2J",
    ],
)
def test_a_reason_shows_no_invisible_characters(line: bytes) -> None:
    info = line + b"\r\nredis_version:8.2.0\r\nrole:master\r\nrun_id:" + b"0" * 40 + b"\r\n"
    if b"_version" in line:
        info = info.replace(b"redis_version:8.2.0\r\n", b"")
    if b"slave" in line:
        info = info.replace(b"role:master\r\n", b"")
    with no_redis(lambda _: b"$%d\r\n%s\r\n" % (len(info), info) * 2 + b"$1\r\nx\r\n" * 20) as address:
        why = reason(address)
    assert escape(why) == why
    assert "lock nodes" in why


def test_four_good_nodes_do_not_mind_a_bad_one(caplog: pytest.LogCaptureFixture) -> None:
    address = f"redis://:{CANARY}@127.0.0.1:{free_port()}"
    with cluster(4) as good, client_of([*good.urls, address]) as client:
        for _ in range(5):
            with client.lock(NAME, blocking=False) as lease:
                assert lease.is_held
        eventually(lambda: any("connection refused" in text for text in caplog.messages), "a line in the log")

    lines = [text for text in caplog.messages if text.startswith("node-down")]
    assert len(lines) == 1, "the same trouble with the same node is logged once"
    assert address.rpartition("@")[2] in lines[0]


def test_a_key_of_another_type_at_the_locks_name(nodes: Cluster) -> None:
    for redis in raws(nodes.servers[:3]):
        redis.rpush(NAME, "a list")

    with client_of(nodes.urls, **LASTING) as client, pytest.raises(QuorumUnavailable) as caught:
        client.lock(NAME).acquire(blocking=False)

    why = "a key of another type is at the lock's name; rename the resource or delete that key"
    assert caught.value.reasons == {label(server): why for server in nodes.servers[:3]}
    for redis in raws(nodes.servers[:3]):
        assert redis.lrange(NAME, 0, -1) == ["a list"]
    eventually(lambda: is_free(nodes.servers[3:], NAME), "nothing left on the good nodes")


@pytest.mark.parametrize(
    "twice",
    [
        pytest.param(lambda port: (f"redis://127.0.0.1:{port}", f"redis://localhost:{port}"), id="two names"),
        pytest.param(lambda port: (f"redis://127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/1"), id="two databases"),
    ],
)
def test_one_server_under_two_addresses(
    twice: Callable[[int], Sequence[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with sixth_redis() as server, cluster(3) as others:
        assert server.port is not None
        first, second = twice(server.port)
        with client_of([*others.urls, first, second]) as client:
            for _ in range(2):
                with client.lock(NAME, blocking=False) as lease:
                    assert lease.is_held
        lines = [text for text in caplog.messages if text.startswith("node-duplicate")]
        assert len(lines) == 1, "it is logged once"
        for address in (first, second):
            assert address.removeprefix("redis://").removesuffix("/0") in lines[0]


def test_an_even_number_of_nodes_is_warned_of_and_works() -> None:
    with cluster(4) as nodes:
        with pytest.warns(UserWarning, match="4 lock nodes tolerate 1 failure, no more than 3 do"):
            client = client_of(nodes.urls)
        with client:
            nodes[0].kill()
            with client.lock(NAME, blocking=False) as lease:
                assert lease.is_held
            nodes[1].kill()
            with pytest.raises(QuorumUnavailable):
                client.lock(NAME).acquire(blocking=False)


def test_a_vote_that_is_split_in_two_halves_is_decided() -> None:
    with cluster(4) as nodes:
        with pytest.warns(UserWarning, match="use an odd number"):
            client = client_of(nodes.urls)
        for redis in raws(nodes.servers[:2]):
            redis.set(NAME, "somebody else", px=200_000)

        with client:
            assert client.lock(NAME).acquire(blocking=False) is False


def test_a_single_node_is_warned_of_and_works() -> None:
    with cluster(1) as nodes:
        with pytest.warns(UserWarning, match="one lock node: no failure is tolerated"):
            client = client_of(nodes.urls)
        with client, client.lock(NAME) as lease:
            assert lease.is_held


def test_nodes_with_passwords_work_and_reveal_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with cluster() as nodes:
        for redis in raws(nodes.servers):
            redis.config_set("requirepass", CANARY)
        with client_of([f"{url}?password={CANARY}" for url in nodes.urls]) as client:
            with client.lock(NAME) as lease:
                assert lease.is_held
                assert_no_secret(repr(client), repr(lease), repr(client._context.pool.nodes), str(client.holder(NAME)))
            for server in nodes.servers:
                server.kill()
            with pytest.raises(QuorumUnavailable) as caught:
                client.lock(NAME).acquire(blocking=False)
            assert_no_secret(str(caught.value), repr(caught.value), *caught.value.reasons)
    assert caplog.messages


def test_redis_py_options_that_change_replies_do_no_harm() -> None:
    with cluster() as nodes, client_of([f"{url}?decode_responses=yes&protocol=3" for url in nodes.urls]) as client:
        assert client.lock(NAME).acquire(blocking=False)


@pytest.mark.parametrize(
    "option", ["socket_keepalive=1&socket_keepalive_options=5", "ssl_min_version=99", "ssl_ciphers=no-such-cipher"]
)
def test_an_option_that_only_the_use_refuses_is_a_reason(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        scheme = "rediss" if "ssl" in option else "redis"
        node = Node(f"{scheme}://127.0.0.1:{server.getsockname()[1]}?{option}", 500)
        with pytest.raises((UnsuitableNode, OSError)) as raised:
            node.connect(0.5)
    assert "Redis server" not in describe_failure(raised.value, 500)
