"""Settings from the environment and from Celery's configuration, the lock's and the example's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from celery import Celery

from redlock import ConfigurationError, Redlock
from redlock._transport.address import label, parse
from redlock.celery import client_for
from redlock.celery.conf import of_conf
from redlock.settings import Settings, read
from workers.settings import from_environment


def test_every_setting_has_a_default() -> None:
    assert read(Settings, {}, "REDLOCK_") == Settings()


def test_the_environment_uses_capitals_and_celery_small_letters() -> None:
    large = read(Settings, {"REDLOCK_TTL": "2.5", "REDLOCK_NODES": "a:1,b:2,c:3", "PATH": "/bin"}, "REDLOCK_")
    small = read(Settings, {"redlock_ttl": 2.5, "redlock_nodes": ["a:1", "b:2", "c:3"], "broker_url": "x"}, "redlock_")
    assert large == small == Settings(ttl=2.5, nodes="a:1,b:2,c:3")


def test_every_field_can_be_set_both_ways_and_makes_a_client() -> None:
    values = {
        "nodes": "a:1,b:1,c:1",
        "ttl": 2.0,
        "max_ttl": 8.0,
        "prefix": "p:",
        "node_timeout": 0.05,
        "events": "off",
        "username": "lock",
        "password": "canary-b7Qx",
    } | {
        "heartbeat_file": "/tmp/h",  # noqa: S108 - a name
        "metrics_file": "/tmp/m.prom",  # noqa: S108 - a name
    }
    assert values.keys() == {field.name for field in dataclasses.fields(Settings)} - {"origins"}
    small = read(Settings, {f"redlock_{name}": value for name, value in values.items()}, "redlock_")
    large = read(Settings, {f"REDLOCK_{name.upper()}": str(value) for name, value in values.items()}, "REDLOCK_")
    assert small == large == Settings(**values)  # type: ignore[arg-type]  # each has its own type
    client = small.client()
    assert client._ttl_ms == 2_000
    assert [node.timeout_ms for node in client._context.pool.nodes] == [50] * 3
    assert "max_ttl=8s prefix='p:'" in client._context.pool.codec.fingerprint


def test_names_without_the_prefix_are_ignored() -> None:
    assert read(Settings, {"TTL": "1", "XREDLOCK_TTL": "1", "redlock_ttl": "1"}, "REDLOCK_") == Settings()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_an_invalid_duration_is_refused_before_its_use(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^ttl is "):
        read(Settings, {"REDLOCK_TTL": value}, "REDLOCK_").client()


@pytest.mark.parametrize("value", [True, None, [5], "soon"])
def test_a_number_in_celerys_configuration_is_checked_too(value: object) -> None:
    with pytest.raises(ConfigurationError):
        read(Settings, {"redlock_ttl": value}, "redlock_").client()


@pytest.mark.parametrize("value", [None, 5, b"a:1", ["a:1", 5], {"a:1": 1}, {"a:1"}])
def test_nodes_that_are_not_text_are_refused_with_the_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match="redlock_nodes is "):
        read(Settings, {"redlock_nodes": value}, "redlock_")


@pytest.mark.parametrize(
    "value",
    [
        ["a:1", "b:1", "c:1"],
        ("a:1", "b:1", "c:1"),
        "a:1,b:1,c:1",
        " a:1, b:1,\n\tc:1\n",
        "a:1\nb:1\nc:1\n",
        "a:1 b:1 c:1",
    ],
    ids=repr,
)
def test_nodes_are_a_list_a_tuple_or_text_with_blanks(value: object) -> None:
    settings = read(Settings, {"redlock_nodes": value}, "redlock_")
    assert [node.label for node in settings.client()._context.pool.nodes] == ["a:1", "b:1", "c:1"]
    if isinstance(value, str):
        assert [node.label for node in Redlock(value)._context.pool.nodes] == ["a:1", "b:1", "c:1"]


def test_a_comma_in_a_listed_address_does_not_split_it() -> None:
    (address,) = read(Settings, {"redlock_nodes": ["redis://:a,b c@h:1"]}, "redlock_").addresses
    assert unquote(urlsplit(address).password or "") == "a,b c"


KUBERNETES = [
    "REDLOCK_SERVICE_HOST",
    "REDLOCK_SERVICE_PORT",
    "REDLOCK_SERVICE_PORT_REDIS",
    "REDLOCK_SERVICE_PORT_TCP_REDIS",
    "REDLOCK_PORT",
    "REDLOCK_PORT_6379_TCP",
    "REDLOCK_PORT_6379_TCP_PROTO",
    "REDLOCK_PORT_6379_TCP_PORT",
    "REDLOCK_PORT_6379_TCP_ADDR",
    "REDLOCK_PORT_53_UDP",
    "REDLOCK_PORT_53_UDP_ADDR",
    "REDLOCK_1_SERVICE_HOST",
    "REDLOCK_NODES_PORT_6379_TCP",
    "REDLOCK_NODES_PORT",
]


@pytest.mark.parametrize("name", KUBERNETES)
def test_variables_that_kubernetes_sets_are_ignored(name: str) -> None:
    environment = {name: "tcp://10.0.0.1:6379", "REDLOCK_TTL": "2"}
    assert read(Settings, environment, "REDLOCK_") == Settings(ttl=2.0)


@pytest.mark.parametrize(
    "name", ["REDLOCK_NODE", "REDLOCK_SERVICE", "REDLOCK_PORTS", "REDLOCK_PORT_TTL", "REDLOCK_HOST"]
)
def test_beside_them_a_misspelled_variable_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is no setting; "):
        read(Settings, {name: "1", **dict.fromkeys(KUBERNETES, "1")}, "REDLOCK_")


def test_the_origin_of_each_setting_is_known(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a:1\n")
    environment = {"REDLOCK_NODES_FILE": str(tmp_path / "nodes"), "REDLOCK_MAX_TTL": "9", "REDLOCK_TTL": "bad"}
    settings = read(Settings, environment, "REDLOCK_", options={"ttl": "2"})
    assert settings == Settings(nodes="a:1", ttl=2.0, max_ttl=9.0)
    assert settings.origins == {
        "nodes": "REDLOCK_NODES_FILE in the environment",
        "max_ttl": "REDLOCK_MAX_TTL in the environment",
        "ttl": "--ttl",
    }


@pytest.mark.parametrize(
    ("node", "user", "password"),
    [
        ("redis://h:1", "lock", "p@ss/:#?,%"),
        ("h:1", "lock", "p@ss/:#?,%"),
        ("redis://other@h:1/0", "other", "p@ss/:#?,%"),
        ("redis://:own@h:1", None, "own"),
        ("redis://other:own@h:1", "other", "own"),
        ("redis://h:1?password=own", None, "own"),
        ("unix:///run/a@b.sock", "lock", "p@ss/:#?,%"),
        ("rediss://[::1]:1?ssl_cert_reqs=none", "lock", "p@ss/:#?,%"),
    ],
)
def test_credentials_apply_where_an_address_has_none(node: str, user: str | None, password: str) -> None:
    given = {"REDLOCK_NODES": f"{node},b:1,c:1", "REDLOCK_USERNAME": "lock", "REDLOCK_PASSWORD": "p@ss/:#?,%"}
    options = parse(read(Settings, given, "REDLOCK_").addresses[0])
    assert (options.get("username"), options["password"]) == (user, password)
    assert label(options) == label(parse(node))


def test_user_and_password_can_lie_in_files(tmp_path: Path) -> None:
    for name in ("username", "password"):
        (tmp_path / name).write_text(f"the {name}\n")
    environment = {f"REDLOCK_{name.upper()}_FILE": str(tmp_path / name) for name in ("username", "password")}
    conf = {f"redlock_{name}_file": tmp_path / name for name in ("username", "password")}
    for settings in (read(Settings, environment, "REDLOCK_"), of_conf(conf)):
        assert (settings.username, settings.password) == ("the username", "the password")
        assert "the password" not in repr(settings)


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
    with pytest.raises(ConfigurationError, match="redlock_prefix"):
        read(Settings, {"redlock_prefix": ["only nodes", "may be a list"]}, "redlock_")


@pytest.mark.parametrize("name", ["metrics_file", "heartbeat_file"])
def test_the_name_of_a_file_is_text(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"^redlock_{name} is .*Path.*; it must be the name of a file, as text$"
    ):
        Settings(**{name: Path("m.prom")})  # type: ignore[arg-type]


def test_what_the_source_does_not_say_is_taken_from_the_base() -> None:
    base = Settings(ttl=1.0, prefix="a:")
    assert read(Settings, {"redlock_ttl": 2.0}, "redlock_", base) == dataclasses.replace(base, ttl=2.0)


def test_a_setting_of_the_environment_can_lie_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "nodes"
    secret.write_text("redis://:canary-b7Qx@a:1,b:1,c:1\n")
    environment = {"REDLOCK_NODES_FILE": str(secret), "REDLOCK_METRICS_FILE": "m.prom", "REDLOCK_TTL_FILE": ""}
    assert read(Settings, environment, "REDLOCK_") == Settings(
        nodes="redis://:canary-b7Qx@a:1,b:1,c:1", metrics_file="m.prom"
    )
    # As editors of Windows save a text.
    secret.write_text("redis://:canary-b7Qx@h:1/2\n", encoding="utf-8-sig")
    assert from_environment({"COUNTER_STORE_URL_FILE": str(secret)})[0].store_url == "redis://:canary-b7Qx@h:1/2"


def test_an_unreadable_file_and_a_second_value_are_refused(tmp_path: Path) -> None:
    for content, reason in ((None, "no such file or directory"), (b"\xff\xfe", "it is no text")):
        secret = tmp_path / "secret"
        if content is not None:
            secret.write_bytes(content)
        with pytest.raises(ConfigurationError) as caught:
            read(Settings, {"REDLOCK_NODES_FILE": str(secret)}, "REDLOCK_")
        assert str(caught.value) == f"the file that REDLOCK_NODES_FILE names can't be read: {reason}"
    with pytest.raises(
        ConfigurationError, match="REDLOCK_TTL and REDLOCK_TTL_FILE are both set; leave one of them out"
    ):
        read(Settings, {"REDLOCK_TTL_FILE": "f", "REDLOCK_TTL": "2"}, "REDLOCK_")
    with pytest.raises(ConfigurationError, match="REDLOCK_NODE_FILE is no setting; "):
        read(Settings, {"REDLOCK_NODE_FILE": "f"}, "REDLOCK_")


def test_the_environment_fills_gaps_in_celerys_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_TTL", "2")
    monkeypatch.setenv("REDLOCK_NODES", "e:1,e:2,e:3")
    app = Celery(set_as_current=False)
    app.conf.redlock_nodes = ["a:1", "b:1", "c:1"]
    client = client_for(app)
    assert [node.label for node in client._context.pool.nodes] == ["a:1", "b:1", "c:1"]
    assert client._ttl_ms == 2_000
    assert client_for(app) is client


def test_two_apps_have_clients_of_their_own() -> None:
    one, other = Celery(set_as_current=False), Celery(set_as_current=False)
    assert client_for(one) is not client_for(other)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"COUNTER_BROKER_URL": "sqs://h"}, "COUNTER_BROKER_URL must be the address of a Redis or a RabbitMQ"),
        ({"COUNTER_THINK": "-1"}, "COUNTER_THINK is -1.0"),
        ({"COUNTER_TIME_LIMIT": "0"}, "COUNTER_TIME_LIMIT is 0.0"),
        ({"COUNTER_VISIBILITY_TIMEOUT": "10"}, "must be longer than COUNTER_TIME_LIMIT"),
        ({"COUNTER_THINK": "30"}, "COUNTER_THINK is 30 s; it must be shorter than COUNTER_TIME_LIMIT, 30 s"),
        (
            {"REDLOCK_METRICS_FILE": "/run/lock.txt"},
            "'/run/lock.txt'; it must be the name of a file that ends in .prom",
        ),
        *(
            ({f"REDLOCK_{kind}_FILE": name}, f"redlock_{kind.lower()}_file is ")
            for kind in ("HEARTBEAT", "METRICS")
            for name in (".", "/", "a\0.prom", "\ud800.prom")
        ),
        ({"COUNTER_BROKER": "x"}, "did you mean COUNTER_BROKER_URL?"),
        ({"COUNTER_BROKER_URL": "redis"}, "such as redis://127.0.0.1:63790/0"),
        ({"COUNTER_RESULT_URL": "http://h"}, "COUNTER_RESULT_URL must be the address of a Redis"),
        ({"COUNTER_STORE_URL": ""}, "COUNTER_STORE_URL must be the address of a Redis"),
        ({"COUNTER_THINK": "nan"}, "COUNTER_THINK is nan"),
        ({"COUNTER_THINK": "a while"}, "COUNTER_THINK is 'a while'; it must be a number, such as 0"),
        ({"COUNTER_THINK": ""}, "COUNTER_THINK is ''"),
        ({"COUNTER_TIME_LIMIT": "inf"}, "COUNTER_TIME_LIMIT is inf"),
        ({"COUNTER_TIME_LIMIT": "200"}, "COUNTER_VISIBILITY_TIMEOUT is 120 s; it must be longer"),
        ({"COUNTER_VISIBILITY_TIMEOUT": "nan"}, "COUNTER_VISIBILITY_TIMEOUT"),
        ({"COUNTER_VISIBILITY_TIMEOUT": "inf"}, "COUNTER_VISIBILITY_TIMEOUT"),
        ({"COUNTER_LOG_BYTES": "nan"}, "COUNTER_LOG_BYTES"),
        ({"COUNTER_LOG_BYTES": "-1"}, "COUNTER_LOG_BYTES"),
        ({"COUNTER_LOG_FILE": ""}, "COUNTER_LOG_FILE"),
        ({"COUNTER_BROKER_URL": "redis://[::1"}, "COUNTER_BROKER_URL"),
        ({"COUNTER_STORE_URL": "redis+socket:///run/a.sock"}, "COUNTER_STORE_URL"),
        ({"COUNTER_STORE_URL": "redis://h:x"}, "COUNTER_STORE_URL"),
        ({"REDLOCK_NODES": ""}, "the list of nodes is empty"),
        ({"REDLOCK_TTL": "0.01"}, "too short"),
        ({"REDLOCK_EVENTS": "some"}, "redlock_events is 'some'; it must be 'all', 'contention' or 'off'"),
        ({"REDLOCK_NODES": "a:x"}, "port from 1 to 65535"),
        *(
            ({"COUNTER_FLOWER_AUTH": users}, "COUNTER_FLOWER_AUTH must be name:password")
            for users in ("ann", ":secret", "ann:", "ann:secret,bob", "ann:secret\nbob:secret", " ", "ann:secret, ")
        ),
    ],
)
def test_the_example_refuses_bad_settings_in_one_line(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_environment(environment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_blank_after_a_comma_is_no_part_of_a_name() -> None:
    settings, _ = from_environment({"COUNTER_FLOWER_AUTH": "ann:secret, bob:two words"})
    assert settings.flower_users == ["ann:secret", "bob:two words"]


def test_a_size_is_not_a_time() -> None:
    assert from_environment({"COUNTER_LOG_BYTES": "5e9"})[0].log_bytes == 5e9
    with pytest.raises(ConfigurationError) as caught:
        from_environment({"COUNTER_LOG_BYTES": "-1"})
    assert "seconds" not in str(caught.value)


def test_the_address_of_the_broker_is_never_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_environment({"COUNTER_BROKER_URL": "sqs://user:canary-b7Qx@h"})
    assert "canary-b7Qx" not in str(caught.value)


def test_thinking_for_no_time_at_all_is_a_setting() -> None:
    assert from_environment({"COUNTER_THINK": "0"})[0].think == 0.0


def test_the_example_runs_without_any_setting() -> None:
    settings, lock = from_environment({})
    assert settings.visibility_timeout > settings.time_limit
    assert lock == Settings()
