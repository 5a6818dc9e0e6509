"""Tests of settings in files: passwords with blanks, empty files, and values that no message may repeat."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redlock import ConfigurationError
from redlock.celery.conf import of_conf
from redlock.settings import Settings, read
from workers.settings import from_environment

CANARY = "canary-b7Qx"
BLANKS = f" \t{CANARY}\u00a0\x1c "
ORDINARY = ("TTL", "MAX_TTL", "NODE_TIMEOUT", "EVENTS", "HEARTBEAT_FILE", "METRICS_FILE", "PREFIX")


def refusal(call: Callable[[], object]) -> str:
    """The message of a call that must fail, without the canary in the error and in all errors behind."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ORDINARY)
def test_a_password_in_the_file_of_another_setting_stays_hidden(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(f"{CANARY}\nand/\0 more/\n")
    variable, key = f"REDLOCK_{name}_FILE", f"redlock_{name.lower()}_file"
    said = refusal(lambda: from_environment({variable: str(tmp_path / "secret")}))
    assert said.startswith(f"{name.lower()}, from the file that {variable} names, is not valid")
    said = refusal(lambda: of_conf({key: tmp_path / "secret"}))
    assert said.startswith(f"{name.lower()}, from the file that {key} names, is not valid")


@pytest.mark.parametrize("name", ["THINK", "TIME_LIMIT", "VISIBILITY_TIMEOUT", "LOG_BYTES"])
def test_so_it_does_in_the_files_of_the_example(tmp_path: Path, name: str) -> None:
    for text in (CANARY, "-73519842"):
        (tmp_path / "secret").write_text(text)
        said = refusal(lambda: from_environment({f"COUNTER_{name}_FILE": str(tmp_path / "secret")}))
        assert said.startswith(f"{name.lower()}, from the file that COUNTER_{name}_FILE names, is not valid")
        assert text not in said


@pytest.mark.parametrize("name", ["ttl", "max_ttl", "node_timeout"])
def test_a_password_of_digits_is_not_shown_as_a_time(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("-73519842")
    settings = read(Settings, {f"REDLOCK_{name.upper()}_FILE": str(tmp_path / "secret")}, "REDLOCK_")
    said = refusal(settings.client)
    assert said.startswith(f"{name}, from the file that REDLOCK_{name.upper()}_FILE names, is not valid")
    assert "73519842" not in said


def test_a_value_that_has_the_name_of_a_setting_is_shown(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("all")
    wrong = {"REDLOCK_EVENTS_FILE": str(tmp_path / "events"), "REDLOCK_METRICS_FILE": "/srv/events/x"}
    assert refusal(lambda: from_environment(wrong)).startswith("redlock_metrics_file is '/srv/events/x'")


def test_a_value_from_no_file_is_still_shown(tmp_path: Path) -> None:
    (tmp_path / "prefix").write_text("shop:")
    given = {"REDLOCK_PREFIX_FILE": str(tmp_path / "prefix"), "REDLOCK_TTL": "20"}
    assert "ttl is 20.0 s, longer than max_ttl" in refusal(lambda: from_environment(given))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=repr)
def test_a_password_in_a_file_keeps_its_blanks(tmp_path: Path, end: str) -> None:
    (tmp_path / "secret").write_bytes((BLANKS + end).encode())
    given = {"REDLOCK_PASSWORD_FILE": str(tmp_path / "secret")}
    assert read(Settings, given, "REDLOCK_").password == BLANKS
    assert of_conf({"redlock_password_file": tmp_path / "secret"}).password == BLANKS
    (tmp_path / "users").write_bytes((f"ann:{BLANKS}" + end).encode())
    example, _ = from_environment({"COUNTER_FLOWER_AUTH_FILE": str(tmp_path / "users")})
    assert example.flower_users == [f"ann:{BLANKS}"]


def test_another_setting_in_a_file_may_have_blanks_around(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "TTL": (" 2\t\n", 2.0),
        "PREFIX": ("\ufeffshop: \r\n", "shop:"),
        "NODES": (" a:1 \n", "a:1"),
    }
    for name, (text, value) in given.items():
        (tmp_path / "file").write_bytes(text.encode())
        settings = read(Settings, {f"REDLOCK_{name}_FILE": str(tmp_path / "file")}, "REDLOCK_")
        assert getattr(settings, name.lower()) == value


@pytest.mark.parametrize("text", ["", "\ufeff", "\n", "\ufeff\r\n", "  \n"], ids=repr)
def test_an_empty_file_is_not_taken_for_no_password(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty").write_bytes(text.encode())
    for variable in (
        "COUNTER_FLOWER_AUTH_FILE",
        "REDLOCK_PASSWORD_FILE",
        "REDLOCK_USERNAME_FILE",
        "REDLOCK_PREFIX_FILE",
    ):
        said = refusal(lambda variable=variable: from_environment({variable: str(tmp_path / "empty")}))  # type: ignore[misc]
        assert said == f"the file that {variable} names is empty; write the value into it"
        assert from_environment({variable: ""}) == from_environment({})


@pytest.mark.parametrize("users", [" ann", "ann:", "ann"])
def test_a_file_without_a_user_and_a_password_opens_no_flower(tmp_path: Path, users: str) -> None:
    (tmp_path / "users").write_text(users)
    said = refusal(lambda: from_environment({"COUNTER_FLOWER_AUTH_FILE": str(tmp_path / "users")}))
    assert said.startswith("COUNTER_FLOWER_AUTH must be name:password")
