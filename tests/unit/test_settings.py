"""Settings from the environment and from Celery's configuration, the lock's and the example's."""

from __future__ import annotations

import dataclasses

import pytest
from celery import Celery

from redlock import ConfigurationError
from redlock.celery import client_for
from redlock.settings import Settings, read
from workers.settings import from_environment


def test_every_setting_has_a_default() -> None:
    assert read(Settings, {}, "REDLOCK_") == Settings()


def test_the_environment_says_it_in_capitals_and_celery_in_small_letters() -> None:
    large = read(Settings, {"REDLOCK_TTL": "2.5", "REDLOCK_NODES": "a:1,b:2,c:3", "PATH": "/bin"}, "REDLOCK_")
    small = read(Settings, {"redlock_ttl": 2.5, "redlock_nodes": ["a:1", "b:2", "c:3"], "broker_url": "x"}, "redlock_")
    assert large == small == Settings(ttl=2.5, nodes="a:1,b:2,c:3")


@pytest.mark.parametrize(
    ("name", "hint"), [("REDLOCK_TTTL", "did you mean REDLOCK_TTL?"), ("REDLOCK_QQQQQQQQQQ", "the settings are")]
)
def test_a_misspelt_setting_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is no setting; ") as caught:
        read(Settings, {name: "1"}, "REDLOCK_")
    assert hint in str(caught.value)


def test_a_setting_of_the_wrong_type_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="REDLOCK_TTL is 'soon'; it must be a number, such as 5"):
        read(Settings, {"REDLOCK_TTL": "soon"}, "REDLOCK_")
    with pytest.raises(ConfigurationError, match="redlock_prefix is int 5; it must be text"):
        read(Settings, {"redlock_prefix": 5}, "redlock_")


def test_what_the_source_does_not_say_is_taken_from_the_base() -> None:
    base = Settings(ttl=1.0, prefix="a:")
    assert read(Settings, {"redlock_ttl": 2.0}, "redlock_", base) == dataclasses.replace(base, ttl=2.0)


def test_celerys_configuration_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_TTL", "2")
    monkeypatch.setenv("REDLOCK_NODES", "e:1,e:2,e:3")
    app = Celery(set_as_current=False)
    app.conf.redlock_nodes = ["a:1", "b:1", "c:1"]
    client = client_for(app)
    assert [node.label for node in client.driver.nodes] == ["a:1", "b:1", "c:1"]
    assert client.ttl_ms == 2_000
    assert client_for(app) is client


def test_an_unknown_celery_setting_of_ours_is_refused() -> None:
    app = Celery(set_as_current=False)
    app.conf.redlock_node = ["a:1"]
    with pytest.raises(ConfigurationError, match=r"redlock_node is no setting; did you mean redlock_nodes\?"):
        client_for(app)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"COUNTER_BROKER_URL": "amqp://h"}, "COUNTER_BROKER_URL must be the address of a Redis"),
        ({"COUNTER_THINK": "-1"}, "COUNTER_THINK is -1.0"),
        ({"COUNTER_TIME_LIMIT": "0"}, "COUNTER_TIME_LIMIT is 0.0"),
        ({"COUNTER_VISIBILITY_TIMEOUT": "10"}, "must be longer than COUNTER_TIME_LIMIT"),
        ({"COUNTER_BROKER": "x"}, "did you mean COUNTER_BROKER_URL?"),
        ({"REDLOCK_TTL": "0.01"}, "too short"),
        ({"REDLOCK_NODES": "a:x"}, "port from 1 to 65535"),
    ],
)
def test_the_example_refuses_bad_settings_in_one_line(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_environment(environment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_example_runs_without_any_setting() -> None:
    settings, lock = from_environment({})
    assert settings.visibility_timeout > settings.time_limit
    assert lock == Settings()
