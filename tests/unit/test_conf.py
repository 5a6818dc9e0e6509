"""Celery's configuration as the lock's settings, in every form in which Celery takes settings."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from celery import Celery

from redlock import ConfigurationError
from redlock._transport.address import parse
from redlock.admin import doctor
from redlock.admin.cluster_status import ClusterStatus
from redlock.celery import client_for, heartbeat
from redlock.celery.client import settings_of


@pytest.fixture
def app() -> Celery:
    return Celery(set_as_current=False)


@pytest.fixture(autouse=True)
def no_module_stays() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("form_"):
            del sys.modules[name]


def module(name: str, **settings: object) -> str:
    made = types.ModuleType(name)
    made.__dict__.update(settings)
    sys.modules[name] = made
    return name


NODES = ["a:1", "b:1", "c:1"]
CANARY = "canary-b7Qx"
Configure: TypeAlias = Callable[[Celery, dict[str, object]], object]
"""Gives these settings to Celery."""


def attribute(app: Celery, given: dict[str, object]) -> None:
    for name, value in given.items():
        setattr(app.conf, name, value)


def of_module(namespace: str | None = None, **others: object) -> Configure:
    return lambda app, given: app.config_from_object(module("form_any", **given, **others), namespace=namespace)


def environment_variable(app: Celery, given: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_CONFIG", module("form_env", **given))
        app.config_from_envvar("SHOP_CONFIG")


def later_update(app: Celery, given: dict[str, object]) -> None:
    app.config_from_object(module("form_later", CELERY_TASK_TIME_LIMIT=9), namespace="CELERY")
    assert app.conf.task_time_limit == 9
    app.conf.update(given)


FORMS: dict[str, tuple[str, Configure]] = {
    "attribute": ("redlock_", attribute),
    "keyword": ("redlock_", lambda app, given: app.conf.update(**given)),
    "small module": ("redlock_", of_module()),
    "capital module": ("REDLOCK_", of_module()),
    "old names": ("CELERY_REDLOCK_", of_module()),
    "namespace": ("CELERY_REDLOCK_", of_module("CELERY", CELERY_TASK_TIME_LIMIT=9)),
    "other namespace": ("SHOP_REDLOCK_", of_module("SHOP")),
    "small namespace": ("shop_redlock_", of_module("shop")),
    "without the namespace": ("REDLOCK_", of_module("CELERY")),
    "object": ("redlock_", lambda app, given: app.config_from_object(type("Config", (), given))),
    "dictionary": ("redlock_", lambda app, given: app.config_from_object(given)),
    "environment variable": ("redlock_", environment_variable),
    "later update": ("CELERY_REDLOCK_", later_update),
    "later defaults": ("redlock_", lambda app, given: app.add_defaults(lambda: given)),
}
"""How each form writes a setting: the beginning of its name, and the way to Celery."""
EVERY_FORM = pytest.mark.parametrize(("begin", "configure"), FORMS.values(), ids=FORMS)


@EVERY_FORM
def test_a_setting_is_read(app: Celery, begin: str, configure: Configure) -> None:
    written = begin + ("NODES" if begin.isupper() else "nodes")
    configure(app, {written: NODES})
    assert [node.label for node in client_for(app)._context.pool.nodes] == NODES
    assert settings_of(app).origins == {"nodes": f"{written} in app.conf"}


@EVERY_FORM
def test_a_misspelled_setting_is_refused_as_it_was_written(app: Celery, begin: str, configure: Configure) -> None:
    node, s = ("NODE", "S") if begin.isupper() else ("node", "s")
    configure(app, {begin + node: NODES})
    with pytest.raises(ConfigurationError) as caught:
        client_for(app)
    assert str(caught.value) == f"{begin}{node} is no setting; did you mean {begin}{node}{s}?"


def test_mixed_case_is_a_misspelled_setting(app: Celery) -> None:
    app.conf.Redlock_Nodes = NODES
    with pytest.raises(ConfigurationError, match=r"Redlock_Nodes is no setting; did you mean Redlock_nodes\?"):
        client_for(app)


def test_another_apps_namespace_is_left_alone(app: Celery) -> None:
    app.config_from_object(module("form_two", CELERY_REDLOCK_NODE=NODES, SHOP_REDLOCK_TTL=2), namespace="SHOP")
    assert settings_of(app).ttl == 2


def test_the_latest_change_wins_over_the_configurations_object(app: Celery) -> None:
    app.config_from_object(module("form_wins", CELERY_REDLOCK_TTL=2, CELERY_REDLOCK_MAX_TTL=9), namespace="CELERY")
    app.conf.redlock_ttl = 3
    assert (settings_of(app).ttl, settings_of(app).max_ttl) == (3, 9)


def test_the_name_with_the_namespace_wins(app: Celery) -> None:
    app.config_from_object(module("form_both", CELERY_REDLOCK_TTL=2, REDLOCK_TTL=3), namespace="CELERY")
    assert settings_of(app).ttl == 2


def test_one_setting_in_two_cases_is_refused(app: Celery) -> None:
    app.config_from_object(module("form_twice", REDLOCK_TTL=2, redlock_ttl=3))
    with pytest.raises(ConfigurationError, match="are both set; leave one of them out"):
        settings_of(app)


def test_a_change_after_the_first_use_makes_a_new_client(app: Celery) -> None:
    app.conf.redlock_nodes = NODES
    first = client_for(app)
    app.conf.task_time_limit = 9
    app.conf.redlock_nodes = tuple(NODES)
    assert client_for(app) is first, "nothing of ours has changed"
    app.conf.update(redlock_nodes=["d:1", *NODES[1:]], redlock_prefix="p:")
    assert client_for(app)._context.pool.nodes[0].label == "d:1"
    app.conf.redlock_tttl = 1
    with pytest.raises(ConfigurationError, match="redlock_tttl is no setting"):
        client_for(app)


@pytest.mark.parametrize("force", [False, True])
def test_a_configuration_that_comes_later_makes_a_new_client(app: Celery, force: bool) -> None:
    app.config_from_object({"redlock_nodes": NODES, "redlock_ttl": 2})
    assert client_for(app)._context.pool.nodes[0].label == "a:1"
    app.config_from_object({"redlock_nodes": ["d:1", *NODES[1:]], "redlock_ttl": 3}, force=force)
    assert client_for(app)._context.pool.nodes[0].label == "d:1"
    assert settings_of(app).ttl == 3
    app.add_defaults({"redlock_prefix": "p:"})
    assert settings_of(app).prefix == "p:"


def test_a_change_inside_the_list_of_nodes_makes_a_new_client(app: Celery) -> None:
    app.conf.redlock_nodes = list(NODES)
    assert client_for(app)._context.pool.nodes[0].label == "a:1"
    app.conf.redlock_nodes[0] = "d:1"
    assert client_for(app)._context.pool.nodes[0].label == "d:1"


def test_the_environment_never_enters_the_configuration(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_NODES", "redis://:canary-b7Qx@a:1,b:1,c:1")
    monkeypatch.setenv("REDLOCK_PASSWORD", "canary-b7Qx")
    app.conf.redlock_ttl = 2
    client_for(app)
    assert "canary-b7Qx" not in str(app.conf.table(with_defaults=True, censored=False))


def test_celery_hides_the_password_in_its_configuration(app: Celery) -> None:
    app.conf.update(redlock_nodes=NODES, redlock_username="lock", redlock_password=CANARY)
    assert parse(settings_of(app).addresses[0])["password"] == CANARY
    assert CANARY not in app.conf.humanize() + str(app.conf.table())


@pytest.mark.parametrize(
    ("settings", "exposed"),
    [
        ({"redlock_nodes": ["redis://:canary@a:1", "b:1"]}, True),
        ({"redlock_nodes": "redis://a:1?password=canary"}, True),
        ({"redlock_nodes": "rediss://a:1?ssl_password=canary"}, True),
        ({"redlock_nodes": NODES, "redlock_password": "canary"}, False),
        ({"redlock_nodes": "redis://lock@a:1"}, False),
        ({}, False),
    ],
)
def test_a_password_in_a_configured_address_is_noticed(
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, object],
    *,
    exposed: bool,
) -> None:
    monkeypatch.setenv("REDLOCK_NODES", "redis://:canary@e:1")
    app.conf.update(settings)
    assert settings_of(app).exposed is exposed
    instance = types.SimpleNamespace(app=app)
    with caplog.at_level("INFO", "redlock"):
        heartbeat._show_settings(instance)
    shown, *warned = caplog.messages
    assert shown.startswith("settings nodes=")
    assert [line.partition(" ")[0] for line in warned] == ["password-in-conf"] * exposed
    found = doctor.examine(ClusterStatus((), (), False, 3, "", 0.0), settings_of(app))  # noqa: FBT003 - plain values
    assert [one.code for one in found].count("password-in-conf") == exposed
    assert "canary" not in caplog.text + "".join(map(str, found))
