"""`main` and `simulate`: bad input is one line on stderr and status 2, before anything starts."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TypeAlias

import pytest
from celery import Celery

import redlock
from redlock import ConfigurationError
from redlock.admin import doctor, force_release
from redlock.admin.diagnostics import Finding
from redlock.admin.force_release import Target
from redlock.cli import main, run
from redlock.cli.simulate import Plan
from redlock.settings import Settings
from tests.no_threads import no_thread

Refusal: TypeAlias = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Gives the line on stderr of a command that is refused, and that writes nothing else."""

    def refused(*words: str) -> str:
        assert main.main(list(words)) == main.BAD_INPUT
        output, error = capsys.readouterr()
        assert not output
        assert error.count("\n") == 1
        return error

    return refused


@pytest.mark.parametrize("words", [["simulate", "--retries=--"], ["run", "--ttl=--", "r"], ["status", "--nodes=--"]])
def test_two_dashes_are_no_value_of_an_option(words: list[str]) -> None:
    """Versions of Python differ in their message."""
    with pytest.raises(SystemExit) as ended:
        sys.exit(main.main(words))
    assert ended.value.code == main.BAD_INPUT


def test_a_bad_setting_in_the_environment_is_one_line_too(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLOCK_TTLL", "5")
    assert "did you mean REDLOCK_TTL?" in refusal("simulate")


def test_a_command_without_a_thread_is_one_line(refusal: Refusal) -> None:
    with no_thread():
        said = refusal("status", "--nodes", "127.0.0.1:1")
    assert said.startswith("redlock: this process can't start a thread; raise its limit of threads")


@pytest.mark.parametrize("name", ["LOG_FILE", "LOG_FILE_FILE", "HOLD", "HOLD_FILE"])
def test_an_option_counts_more_than_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SIMULATE_{name}", "-1")
    main.main(["simulate", "--log-file", "/dev/null", "--hold", "-2"])
    assert "hold is -2.0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nope"], ["simulate", "--nope"], ["init", "--hold", "1"]])
def test_what_is_no_command_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == main.BAD_INPUT
    assert "usage: redlock" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status", "u:canary@h:1"], ["status", "--most", "u:canary@h:1"], ["u:canary@h:1"]])
def test_an_error_shows_no_password_that_was_typed(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(words)
    assert "canary" not in capsys.readouterr().err


@pytest.mark.parametrize("app", ["user:canary@h:1", "redis:user:canary@h:1", "redis//user:canary@h:1"])
def test_an_address_in_place_of_an_app_is_not_repeated(refusal: Refusal, app: str) -> None:
    assert "canary" not in refusal("status", "-A", app)


@pytest.mark.parametrize("character", ["\x1b", "\u202e", "\ufeff", "\x07"])
def test_an_error_shows_no_control_character(capsys: pytest.CaptureFixture[str], character: str) -> None:
    with pytest.raises(SystemExit):
        main.main(["status", f"a{character}redis://:canary@h"])
    error = capsys.readouterr().err
    assert character not in error
    assert "canary" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "--ttl", "soon"], "--ttl is 'soon'; it must be a number"),
        (["simulate", "--hold", "soon"], "--hold is 'soon'"),
        (["simulate", "--hold", "-1"], "hold is -1.0"),
        (["simulate", "--delays", "0,soon"], "delays is '0,soon'"),
        (["simulate", "--delays", ""], "delays is ''"),
        (["simulate", "--delays", "-1"], "delays is -1.0"),
        (["simulate", "--retries", "many"], "--retries is 'many'; it must be a number"),
        (["simulate", "--retries", ""], "--retries is ''; it must be a number"),
        (["simulate", "--retries", "3.0", "--resource", ""], "resource name is empty"),
        (["simulate", "--retries", "1.5"], "retries is 1.5"),
        (["simulate", "--retries", "-1"], "retries is -1"),
        (["simulate", "--retries", "inf"], "retries is inf"),
        (["simulate", "--retry-delay", "nan"], "retry-delay is nan"),
        (["simulate", "--resource", ""], "resource name is empty"),
        (["run", "x"], "run needs a program"),
        (["run", "x", "--"], "run needs a program"),
        (["run", "x", "--ttl", "soon", "--", "true"], "--ttl is 'soon'"),
        (["run", "x", "--ttl", "60", "--", "true"], "ttl is 60.0 s, longer than max_ttl"),
        (["run", "x", "--wait", "-1", "--", "true"], "--wait is -1.0"),
        (["run", "x", "--wait", "nan", "--", "true"], "--wait is nan"),
        (["run", "x", "--grace", "-1", "--", "true"], "--grace is -1.0"),
        (["run", "x", "--grace", "2.6", "--", "true"], "--grace is 2.6 s; it must be at most half of the ttl, 2.5 s"),
        (["run", "", "--", "true"], "resource name is empty"),
        (["run", "a\nb", "--", "true"], "resource name 'a\\nb' holds a control character"),
        (["run", "x", "--nodes", "http://h:1", "--", "true"], "a node address begins with 'http'"),
        (["release", "x"], "only the holder can release a lock"),
        (["release", "", "--force", "--yes"], "resource name is empty"),
        (["status", "--timeout", "0"], "--timeout is 0.0"),
        (["status", "--most", "-1"], "--most is -1"),
        (["status", "--most", "0"], "--most is 0; it must be a whole number, 1 or more"),
        (["status", "--nodes", ","], "the list of nodes is empty"),
        (["doctor", "--timeout", "-1"], "--timeout is -1.0"),
        (["doctor", "--nodes", "h"], "a node address has no port"),
        (["doctor", "--broker", ""], "--broker is empty"),
        (["doctor", "--store", ""], "--store is empty"),
        (["doctor", "--database", ""], "--database is empty"),
        (["doctor", "-A", ""], "--app is empty"),
        (["run", "-A", "", "x", "--", "true"], "--app is empty"),
    ],
)
def test_bad_input_is_one_line_and_sends_no_request(refusal: Refusal, arguments: list[str], said: str) -> None:
    assert refusal(*arguments).startswith(f"redlock: {said}")


@pytest.mark.parametrize(
    "urls", ["redis://a:1;redis://b:2", ["redis://a:1", "redis://b:2"], ("redis://a:1", "redis://b:2")]
)
def test_each_address_of_a_broker_is_checked(monkeypatch: pytest.MonkeyPatch, urls: str | list[str]) -> None:
    app = Celery(set_as_current=False)
    app.conf.broker_url = urls
    asked = []

    def check(*_: object, broker: str, **__: object) -> list[Finding]:
        asked.append(broker)
        return []

    monkeypatch.setattr(doctor, "check", check)
    assert main.main(["doctor"], app) == 0
    assert asked == ["redis://a:1;redis://b:2"]


def test_help_names_every_exit_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["run", "--help"])
    text = capsys.readouterr().out
    own = (run.NO_QUORUM, run.LOST, run.CANNOT_CREATE, run.CONTENDED, run.CANNOT_RUN, run.NOT_FOUND)
    assert all(str(status) in text for status in own)
    assert text.startswith("usage: redlock run [options] RESOURCE -- COMMAND ...")


def test_no_file_overrides_a_setting_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("NODES", "TTL", "MAX_TTL", "PREFIX", "NODE_TIMEOUT", "USERNAME", "PASSWORD")
    for name in names:
        monkeypatch.setenv(f"REDLOCK_{name}_FILE", "/nowhere")
    found = run.environment(Settings(), credentials=False)
    assert not [name for name in found if name.startswith("REDLOCK_") and name.endswith("_FILE")]
    assert {f"REDLOCK_{name}" for name in names[:5]} <= set(found)


@pytest.mark.parametrize("answer", ["", "n", "no", "yes please"])
def test_declaring_nodes_asks_and_takes_anything_but_yes_for_no(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert main.main(["init", "--nodes", "h:1,h:2,h:3"]) == main.DECLINED
    output = capsys.readouterr().out
    assert "lets 3 nodes vote at once" in output
    assert "Nothing was changed." in output


@pytest.mark.parametrize("error", [EOFError, KeyboardInterrupt])
def test_who_leaves_at_the_question_has_changed_nothing(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def leave(_: str) -> str:
        raise error

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", leave)
    assert main.main(["init", "--nodes", "h:1,h:2,h:3"]) == main.INTERRUPTED


def test_without_a_terminal_init_asks_no_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["init", "--nodes", "h:1,h:2,h:3"]) == main.BAD_INPUT
    output, error = capsys.readouterr()
    assert error == "redlock: there is no terminal for the question; --yes answers the question beforehand\n"
    assert "Go on?" not in output


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MAX_TTL", "-5", "max_ttl is -5.0"),
        ("TTL", "99", "ttl is 99.0 s, longer than max_ttl"),
        ("PREFIX", "a\nb", "prefix 'a\\nb' holds a control character"),
        ("PREFIX", "x" * 2_000, "prefix 'xxxxx"),
        ("PREFIX", "\udcff", "prefix '\\udcff' holds half a surrogate pair"),
        ("NODE_TIMEOUT", "1e-9", "node_timeout is 1e-09; it must be at least 0.001 s"),
    ],
)
def test_init_refuses_what_no_client_accepts(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"REDLOCK_{name}", value)
    assert refusal("init", "--yes", "--nodes", "h:1,h:2,h:3").startswith(f"redlock: {said}")


def test_a_closed_stream_causes_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None in place of a closed stream. No connection may get the number of the stream."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main.main(["init", "--nodes", "h:1,h:2,h:3"]) == main.BAD_INPUT
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_a_plan_starts_each_client_after_its_delay() -> None:
    assert Plan(delays="0, 1,2.5").starts() == [0.0, 1.0, 2.5]
    assert Plan(delays="0", hold=0.0, retries=0, retry_delay=0.0).starts() == [0.0]
    with pytest.raises(ConfigurationError, match="such as 0,1,3"):
        Plan(delays="0;1").starts()


def test_a_holder_hides_no_votes_from_the_operator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The holder begins with the id of a task, which its sender may choose."""
    target = Target("acct", "token", "password='@w1@h (01234567)", 1, 5, None, 7, valid=False)
    monkeypatch.setattr(force_release, "target", lambda *_: target)
    # Without a terminal for the question, the command ends after the description of the lock.
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main.main(["release", "acct", "--force"]) == main.BAD_INPUT
    assert " on 1 of 5 nodes, which is no quorum" in capsys.readouterr().out


def test_a_holder_forges_no_votes_before_the_operator() -> None:
    holder = "ann@w (01234567) on 5 of 5 nodes.@w1@h (89abcdef)"
    target = Target("acct", "token", holder, 1, 5, None, 7, valid=False)
    assert target.describe().startswith(f"'acct' is held by {holder!r} on 1 of 5 nodes, which is no quorum")


@pytest.mark.parametrize("text", ["x password='", "redis://u:canary@h", "password=canary"])
def test_a_lock_and_its_holder_hide_nothing_but_secrets(text: str) -> None:
    for resource, holder in ((text, "ann@w"), ("acct", text), (text, text)):
        target = Target(resource, "owner-token", holder, 1, 5, None, 7, valid=False)
        shown = target.describe()
        assert "canary" not in shown
        assert " is held by " in shown
        assert "owner-token" not in shown + repr(target)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main.main(["--version"])
    assert capsys.readouterr().out == f"redlock {redlock.__version__}\n"
