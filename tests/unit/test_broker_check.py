"""`broker_check` and `broker_address`: which brokers are checked, and how Celery's addresses are read."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import pytest

from redlock.admin import broker_address, broker_check
from redlock.admin.diagnostics import Level


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://", "redis://localhost:6379"),
        ("redis://localhost/3", "redis://localhost:6379/3"),
        ("redis://:secret@/3", "redis://:secret@localhost:6379/3"),
        ("rediss://u:p@[::1]/0", "rediss://u:p@[::1]:6379/0?ssl_cert_reqs=none"),
        ("redis://h:1/0?visibility_timeout=30&ssl_ca_certs=/ca", "rediss://h:1/0?ssl_ca_certs=%2Fca"),
        ("rediss://h:1?ssl_cert_reqs=CERT_OPTIONAL", "rediss://h:1?ssl_cert_reqs=optional"),
        ("redis://h:1?credential_provider=module.Provider", ""),
        ("redis+socket:///run/r.sock?virtual_host=2", "unix:///run/r.sock?db=2"),
        ("unix:///run/r.sock", "unix:///run/r.sock"),
        ("REDIS://h:1", "redis://h:1"),
        ("redis://:secret@[::1", "redis://:secret@[::1"),
        ("redis://h?password=\udcff", "redis://h?password=\udcff"),
        ("amqp://h", ""),
        ("amqp://u:secret@[::1", ""),
        ("sqs://", ""),
    ],
)
def test_a_redis_broker_is_found_as_celery_finds_it(broker: str, url: str) -> None:
    assert broker_address.redis_url(broker, {}) == url


REQUIRED = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca"}


@pytest.mark.parametrize(
    ("broker", "conf", "url"),
    [
        ("redis://h:1/0", {"broker_use_ssl": REQUIRED}, "rediss://h:1/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fca"),
        ("rediss://h:1", {"broker_use_ssl": {"ssl_cert_reqs": None}}, "rediss://h:1?ssl_cert_reqs=none"),
        ("rediss://h:1", {"broker_use_ssl": {"ssl_cert_reqs": 1}}, "rediss://h:1?ssl_cert_reqs=optional"),
        ("redis://h:1", {"broker_use_ssl": {"ssl_ca_certs": Path("/ca")}}, "rediss://h:1?ssl_ca_certs=%2Fca"),
        ("redis://h:1", {"broker_use_ssl": {"ssl_check_hostname": False}}, "rediss://h:1?ssl_check_hostname=0"),
        ("redis://h:1?ssl_ca_certs=/other", {"broker_use_ssl": REQUIRED}, "rediss://h:1?ssl_ca_certs=%2Fother"),
        (
            "redis://h:1",
            {"broker_use_ssl": {"ssl_ca_certs": None, "ssl_keyfile": "/key"}},
            "rediss://h:1?ssl_keyfile=%2Fkey",
        ),
        ("redis://h:1", {"broker_use_ssl": {"ssl_include_verify_flags": []}}, ""),
        ("redis://h:1", {"broker_use_ssl": {"ssl_ca_certs": "\udcff"}}, ""),
        ("redis://h:1", {"broker_password": "\udcff"}, ""),
        # Celery sets up no TLS.
        ("redis://h:1", {"broker_use_ssl": True}, "redis://h:1"),
        ("rediss://h:1", {"broker_use_ssl": True}, "redis://h:1"),
        ("redis://h", {"broker_user": "me", "broker_password": "a@b", "broker_port": 7}, "redis://me:a%40b@h:7"),
        ("redis://me@h", {"broker_user": "you", "broker_password": "p"}, "redis://me:p@h:6379"),
        ("redis://:p@h", {"broker_user": "me"}, "redis://me:p@h:6379"),
        ("redis://h", {"broker_vhost": "3"}, "redis://h:6379/3"),
        ("redis://h/", {"broker_vhost": "/3"}, "redis://h:6379/3"),
        ("redis://h/2", {"broker_vhost": "3"}, "redis://h:6379/2"),
        ("redis://:own@h:1", {"broker_password": "other"}, "redis://:own@h:1"),
    ],
)
def test_the_apps_configuration_counts_as_in_celery(broker: str, conf: dict[str, object], url: str) -> None:
    assert broker_address.redis_url(broker, conf) == url


def test_every_broker_of_a_failover_list_is_checked() -> None:
    assert broker_address.urls("amqp://a; amqp://b;") == ["amqp://a", "amqp://b"]
    assert broker_address.urls("") == []


@pytest.mark.parametrize(
    "broker",
    [
        *("SQS://key:canary@", "sentinel://h:26379", "memory://", "librabbitmq://u:canary@h", "redis://u:canary@h"),
        *(f"{transport}://u:canary@127.0.0.1:1//" for transport in ("amqp+ssl", "amqps+tls", "pyamqp+x")),
    ],
)
def test_another_transport_is_said_to_be_unchecked(broker: str) -> None:
    (finding,) = broker_check.check(broker, 1.0)
    assert (finding.level, finding.code) == (Level.WARNING, "not-checked")
    assert "was not contacted" in finding.what
    assert "canary" not in str(finding)


def test_without_kombu_no_amqp_broker_is_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kombu.connection", None)
    (finding,) = broker_check.check("amqp://u:canary@h", 1.0)
    assert (finding.level, finding.code) == (Level.WARNING, "not-checked")
    assert "kombu is not installed" in finding.what


def test_every_answer_of_an_amqp_broker_has_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def connection(_url: str, **limits: object) -> None:
        asked.update(limits)
        raise ValueError

    monkeypatch.setattr("kombu.connection.Connection", connection)
    broker_check.check("amqp://h", 0.2)
    limits = {"connect_timeout": 0.2, "read_timeout": 0.2, "write_timeout": 0.2}
    assert asked == {"transport_options": limits}


@pytest.mark.parametrize(
    "broker",
    [
        # These can't be read.
        *("amqp://u:canary@[::1", "AMQP://u:canary@[::1"),
        # These have no transport.
        *("nonsense", "canary", "user:canary@host:5672", "u:canary@host/amqp://", "canary" * 4 + "://"),
        # These have an option that AMQP does not know.
        *(f"amqp://127.0.0.1:1//?{name}=canary" for name in ("password", "nonsense", "login_method")),
    ],
)
def test_an_address_of_no_use_is_a_finding_that_repeats_nothing(broker: str) -> None:
    (finding,) = broker_check.check(broker, 1.0)
    assert (finding.level, finding.code) == (Level.WARNING, "address")
    assert "canary" not in str(finding)
