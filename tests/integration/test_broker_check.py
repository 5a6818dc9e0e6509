"""`redlock doctor --broker amqp://...` on a real RabbitMQ: its findings, and no change on the server."""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu.connection import Connection

from redlock.admin import broker_check
from redlock.admin.diagnostics import Finding, Level
from redlock.cli import main
from redlock.testing.redis_server import Cluster, free_port
from tests.integration.rabbit import needs_rabbitmq, rabbit
from tests.integration.tools import CANARY
from workers.rabbitmq import RabbitMQ


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMQ]:
    with rabbit() as server:
        yield server


@contextlib.contextmanager
def channel(server: RabbitMQ) -> Iterator[Any]:
    with Connection(server.url) as connection, connection.channel() as channel:
        yield channel


def found(url: str) -> dict[str, Finding]:
    findings = broker_check.check(url, 5.0)
    assert CANARY not in " ".join(map(str, findings))
    return {finding.code: finding for finding in findings}


@pytest.mark.long
@needs_rabbitmq
def test_a_broker_that_answers_is_described(server: RabbitMQ) -> None:
    (finding,) = found(server.url).values()
    assert (finding.level, finding.code) == (Level.FINE, "amqp")
    assert finding.what.startswith("RabbitMQ ")
    assert "heartbeat 60 s" in finding.what
    assert "queue 'celery' does not exist" in finding.what
    assert "not checked: persistence" in finding.what
    (again,) = found(server.url).values()
    assert again == finding, "the first check created no queue"


@pytest.mark.long
@needs_rabbitmq
def test_a_quorum_queue_needs_delayed_delivery(server: RabbitMQ) -> None:
    with channel(server) as amqp:
        try:
            amqp.queue_declare("celery", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
            assert found(server.url)["delayed-delivery"].level is Level.WARNING
            amqp.exchange_declare("celery_delayed_27", "topic", durable=True, auto_delete=False)
            (finding,) = found(server.url).values()
            assert "queue 'celery' is quorum; the exchange of native delayed delivery exists" in finding.what
        finally:
            amqp.queue_delete("celery")
            amqp.exchange_delete("celery_delayed_27")


@pytest.mark.long
@needs_rabbitmq
def test_a_classic_queue_needs_none(server: RabbitMQ) -> None:
    with channel(server) as amqp:
        try:
            amqp.queue_declare("celery", durable=True, auto_delete=False)
            (finding,) = found(server.url).values()
            assert "queue 'celery' is classic; the exchange of native delayed delivery is missing" in finding.what
        finally:
            amqp.queue_delete("celery")


@pytest.mark.long
@needs_rabbitmq
def test_a_wrong_address_is_named_with_what_is_wrong(server: RabbitMQ) -> None:
    assert "refuses the user name" in found(server.url.replace("guest:guest", f"guest:{CANARY}"))["access"].what
    assert "no such virtual host" in found(server.url + "nowhere")["access"].what
    assert "does not speak TLS" in found(server.url.replace("amqp://", "amqps://"))["unreachable"].what


@pytest.mark.long
@needs_rabbitmq
def test_a_broker_without_heartbeats_is_a_warning() -> None:
    with rabbit("heartbeat = 0") as server:
        assert found(server.url)["heartbeat"].level is Level.WARNING


def test_a_broker_that_is_down_is_unreachable() -> None:
    assert "refused" in found(f"amqp://guest:{CANARY}@127.0.0.1:{free_port()}//")["unreachable"].what


def test_a_broker_that_never_answers_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (finding,) = broker_check.check(f"amqp://127.0.0.1:{silent.getsockname()[1]}//", 0.2)
    assert (finding.code, finding.what) == ("unreachable", "no answer within 0.2 s")


@pytest.mark.parametrize(
    ("header", "timeout", "what"),
    [
        (b"x" * 7, 20.0, "an option in its address can't be used, or it does not speak AMQP"),
        # On a busy machine the time from one byte to the next is long.
        (struct.pack(">BHI", 1, 0, 100_000), 0.4, "no complete answer within 2 s"),
    ],
    ids=["flood", "drip"],
)
def test_a_reply_without_an_end_is_a_finding(header: bytes, timeout: float, what: str) -> None:
    """The client of AMQP reads up to the length that the server states, 4 GB at most."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def send() -> None:
            with server.accept()[0] as client, contextlib.suppress(ConnectionError):
                client.recv(8)
                client.sendall(header)
                # The pause is the fault itself; the end of the connection ends the loop.
                while not select.select([client], [], [], 0.05)[0]:
                    client.sendall(b"x")

        sent = pool.submit(send)
        (finding,) = broker_check.check(f"amqp://127.0.0.1:{server.getsockname()[1]}//", timeout)
        sent.result()
    assert finding.what == what, "and it has hung up"


@pytest.mark.parametrize("option", ["ssl_cert_reqs=CERT_NONE", "ssl_check_hostname=false", "ssl_ca_certs=/nowhere"])
def test_an_option_that_the_client_does_not_know_is_a_finding(option: str) -> None:
    """The client of AMQP finds out when it has a connection, and leaves the connection without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        (finding,) = broker_check.check(f"amqps://127.0.0.1:{server.getsockname()[1]}//?{option}", 0.5)
    assert (finding.code, finding.level) == ("address", Level.WARNING)
    gc.collect()


def test_the_command_never_says_fine_of_a_broker_that_is_down(
    nodes: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = f"amqp://guest:{CANARY}@127.0.0.1:{free_port()}//"
    assert main.main(["doctor", "--nodes", ",".join(nodes.urls), "--broker", broker]) == Level.WARNING
    said = capsys.readouterr().out
    assert CANARY not in said
    assert "WARNING    broker 127.0.0.1:" in said


def start_frame(table: bytes) -> bytes:
    return struct.pack(">HHBBI", 10, 10, 0, 9, len(table)) + table + 2 * (struct.pack(">I", 5) + b"PLAIN")


def nested_lists(count: int) -> bytes:
    table = b""
    for _ in range(count):
        table = b"A" + struct.pack(">I", len(table)) + table
    return b"\x01a" + table


UNREADABLE = [
    b"",
    struct.pack(">HHBBI", 10, 10, 0, 9, 65_000) + b"\x03abcI",
    start_frame(b"\x01aT" + b"\xff" * 8),
    start_frame(nested_lists(3_000)),
]


@pytest.mark.parametrize("payload", UNREADABLE, ids=["empty", "short", "late", "nested"])
def test_a_reply_that_cannot_be_read_is_a_finding(payload: bytes) -> None:
    frame = struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(8)
                client.sendall(frame)

        answered = pool.submit(answer)
        (finding,) = broker_check.check(f"amqp://127.0.0.1:{server.getsockname()[1]}//", 5.0)
        answered.result()
    assert finding.level is Level.WARNING
    assert "does not speak AMQP" in finding.what
    # A socket that is still open is a warning, and so an error here.
    gc.collect()
