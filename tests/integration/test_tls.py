"""Lock nodes and brokers behind TLS, with certificates from openssl.

The tests of nodes are skipped without a redis-server that supports TLS.

Invariants:
1. The nodes require a certificate of the client.
2. Each wrong certificate is a clear reason for a missing vote, and never a vote.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
from celery import Celery

from redlock import ConfigurationError, QuorumUnavailable, Redlock
from redlock.admin import doctor
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.settings import Settings
from redlock.testing.redis_server import Server, free_port
from tests.integration import tools
from tests.integration.asyncio_tools import client_of, next_turn
from tests.integration.threads import in_threads
from tests.integration.tools import eventually, holders, raw
from tests.proxy import Proxy, served

NAME = "tls"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.certificate = directory / "ca.crt"
        files = ("-keyout", "ca.key", "-out", "ca.crt")
        # Python 3.13 and later trust only an authority whose certificate permits the signing of certificates.
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._openssl("req", "-x509", "-days", "2", *NEW_KEY, "-subj", "/CN=authority", *usage, *files)

    def issue(self, name: str) -> tuple[Path, Path]:
        (self._directory / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
        self._openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.crt")
        return self._directory / f"{name}.crt", self._directory / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that nodes and clients trust."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


class Nodes:
    """Lock nodes with TLS on a port, and without TLS on a unix socket for the test."""

    def __init__(self, servers: list[Server], ports: list[int]) -> None:
        self.servers, self._ports = servers, ports

    def urls(self, authority: Authority, client: tuple[Path, Path] | None, scheme: str = "rediss") -> list[str]:
        """The addresses for a client that trusts this authority and has this certificate."""
        options = f"?ssl_ca_certs={authority.certificate}"
        if client is not None:
            options += f"&ssl_certfile={client[0]}&ssl_keyfile={client[1]}"
        return [f"{scheme}://127.0.0.1:{port}{options if scheme == 'rediss' else ''}" for port in self._ports]


@pytest.fixture(scope="module")
def nodes(authority: Authority) -> Iterator[Nodes]:
    """Three nodes with a certificate for 127.0.0.1, which require a certificate of the client."""
    program = shutil.which("redis-server")
    certificate, key = authority.issue("node")
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(authority.certificate)]
    ports = [free_port() for _ in range(3)]
    servers = [Server(options=("--tls-port", str(port), *options), program=program) for port in ports]
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        for server in servers:
            try:
                server.start()
            except ConfigurationError:
                # A server that was built without TLS does not know the options.
                if "tls" not in (server.directory / "redis.log").read_text().lower():
                    raise
                pytest.skip("no redis-server with TLS")
        declare_nodes([server.url for server in servers])
        yield Nodes(servers, ports)


def reasons(urls: list[str]) -> set[str]:
    """The reasons for missing votes of the nodes at these addresses."""
    with tools.client_of(urls) as client, pytest.raises(QuorumUnavailable) as caught:
        client.lock(NAME).acquire(blocking=False)
    return set(caught.value.reasons.values())


async def test_asyncio_speaks_tls_too(nodes: Nodes, authority: Authority) -> None:
    counted = 0

    async with client_of(nodes.urls(authority, authority.issue("client"))) as client:

        async def one() -> None:
            nonlocal counted
            async with client.lock(NAME, ttl=9):
                value = counted
                await next_turn()
                counted = value + 1

        # Long names: an answer and a request are more than one TLS record.
        wide = [client.lock([f"{number}:{place}" * 200 for place in range(9)]) for number in range(20)]
        await asyncio.gather(*(one() for _ in range(30)), *(lock.acquire() for lock in wide))
        await asyncio.gather(*(lock.release() for lock in wide))
    assert counted == 30


def test_locks_are_acquired_awaited_renewed_and_released(nodes: Nodes, authority: Authority) -> None:
    urls = nodes.urls(authority, authority.issue("client"))
    with tools.client_of(urls) as client, tools.client_of(urls) as other:
        fences: list[int] = []

        def count(redlock: Redlock) -> None:
            for _ in range(50):
                with redlock.lock(NAME) as lease:
                    fences.append(lease.fence)

        in_threads(*(partial(count, one) for one in (client, other, client, other)))
        assert fences == sorted(set(fences))
        assert len(fences) == 200

        with client.lock(NAME, ttl=5.0) as lease:
            with raw(nodes.servers[0]) as redis:
                redis.delete(NAME)
            eventually(lambda: holders(nodes.servers, NAME) == [lease.owner] * 3, "renewal and repair")
            assert not other.lock(NAME).acquire(blocking=False)
            assert [held.resource for held in cluster_status(urls, timeout=5.0).locks] == [NAME]
        eventually(lambda: holders(nodes.servers, NAME) == [None] * 3, "the release")


def test_each_wrong_certificate_is_a_reason_and_never_a_vote(
    nodes: Nodes, authority: Authority, tmp_path: Path
) -> None:
    client = authority.issue("client")
    right = nodes.urls(authority, client)

    (why,) = reasons(nodes.urls(Authority(tmp_path / "others"), client))
    assert "certificate verify failed: self-signed certificate in certificate chain" in why
    (why,) = reasons([url.replace("127.0.0.1", "localhost") for url in right])
    assert "certificate is not valid for 'localhost'" in why
    assert reasons(nodes.urls(authority, None))
    assert reasons(nodes.urls(authority, client, "redis")), "in the clear"
    with tools.client_of(right) as redlock, redlock.lock(NAME):
        pass


@pytest.fixture
def secured(broker: Server, authority: Authority) -> Iterator[Proxy]:
    """The broker behind TLS, which checks the certificate of a client that has a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    context.load_cert_chain(*authority.issue("broker"))
    context.verify_mode = ssl.CERT_OPTIONAL
    proxy = Proxy(broker)
    proxy.tls = context
    with served(proxy.listen):
        yield proxy


def broker_codes(app: Celery) -> list[str]:
    """The codes of the findings about the broker of this app."""
    findings = doctor.check(Settings(nodes="127.0.0.1:1"), broker=app.conf.broker_url, app=app, timeout=5.0)
    return [finding.code for finding in findings if finding.where.startswith("broker")]


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("check", [ssl.CERT_REQUIRED, "CERT_REQUIRED", "CERT_NONE", None])
def test_the_doctor_reaches_a_broker_as_celery_does(
    secured: Proxy, authority: Authority, scheme: str, check: ssl.VerifyMode | str | None
) -> None:
    app, place = Celery(set_as_current=False), secured.url.partition("://")[2]
    certificate, key = map(str, authority.issue("client"))
    files = {"ssl_ca_certs": str(authority.certificate), "ssl_certfile": certificate, "ssl_keyfile": key}
    options = f"?{urlencode({'ssl_cert_reqs': check, **files})}" if isinstance(check, str) else ""
    app.conf.broker_url = f"{scheme}://{place}/0{options}"
    if isinstance(check, int):
        app.conf.broker_use_ssl = {"ssl_cert_reqs": check, **files}
    if check is None and scheme == "redis":
        assert broker_codes(app) == ["unreachable"]
        return
    with app.connection_for_write() as connection:
        connection.default_channel.client.ping()
    assert broker_codes(app) == ["broker"]


def test_the_doctor_speaks_tls_with_an_amqp_broker(secured: Proxy, authority: Authority) -> None:
    asked = []

    def note(data: bytes) -> bool:
        asked.append(data)
        raise ConnectionResetError

    secured.lets_through = note
    app = Celery(set_as_current=False, broker=f"amqp://guest:guest@{secured.url.partition('://')[2]}//")
    app.conf.broker_transport_options = {"connect_timeout": "no number"}
    app.conf.broker_use_ssl = {"ca_certs": str(authority.certificate), "cert_reqs": ssl.CERT_REQUIRED}
    assert broker_codes(app) == ["unreachable"]
    assert [data[:4] for data in asked] == [b"AMQP"]
