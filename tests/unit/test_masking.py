"""`redlock._masking`: no text that leaves the package holds a password."""

from __future__ import annotations

import pytest

from redlock import ConfigurationError, _masking
from redlock._escaping import escape, escape_blanks
from redlock._masking import mask, mask_input, quoted

ADDRESS = "redis://user:canary@h:1"


@pytest.mark.parametrize(
    "text",
    [
        "rediss://h:1?ssl_password=canary",
        "rediss://h:1?ssl_keyfile=/k&ssl_password=canary&db=1",
        "redis://me@corp:canary@h:1",
        "redis://me@corp:can@ary@canary@h:1",
        "sentinel://:canary@a:26379;sentinel://:canary@b:26379",
        "sentinel://a:1?sentinel_kwargs=%7B%22password%22%3A%22canary%22%7D",
        "{'sentinel_kwargs': {'password': 'canary'}, 'db': 0}",
        '{"sentinel_kwargs": {"password": "can\\"canary"}}',
        "Sentinel([('a', 1)], sentinel_kwargs={'password': b'canary', 'db': 1})",
        "SSLConnection(host='h', ssl_password='canary', password=\"it's canary\")",
        "REDLOCK_PASSWORD=canary redlock doctor",
        "passphrase: 'canary two'",
        "a list: ['redis://:canary@h:1', 'redis://:canary two@h:2']",
        "cut off: {'password': 'canary two",
        "cut off: {'password': 'canary\\",
        # The repr of an error, JSON in JSON, and a repr of JSON.
        "OSError('can\\'t use {\\'password\\': \\'canary two\\'} for \"a\"')",
        "OSError('can\\'t use {b\\'password\\': b\\'canary\\'} for \"a\"')",
        "OSError('can\\'t use \"a\" in connect(password=\\'canary canary\\')')",
        '{"error": "{\\"password\\": \\"canary\\"}"}',
        """'{"password": "a\\\\"canary"}'""",
        """OSError('{"password":\\\\n\\\\t"canary two"}')""",
        # A line of a log has an escape sequence for a blank behind a blank, and for other blanks.
        escape_blanks("{'password':   'white canary'}"),
        escape('{"password"\xa0:\n\u2003"white canary"}'),
        "Command '['dump', '--password', 'white canary']' failed",
        "<ConnectionPool(<Connection(username=None,password=white canary&canary,host=h)>)>",
        "<ConnectionPool(<Connection(password=white canary&canary)>)>",
        'deep: password=\\\\\\\\\\\\\\\\"a canary',
        "redis+socket://:canary@/run/a.sock db-1.redis://u:canary@h:1",
    ],
)
def test_a_secret_is_hidden_wherever_it_stands(text: str) -> None:
    assert "canary" not in mask(text)


@pytest.mark.parametrize(("backslashes", "shown"), [(7, True), (8, False)])
def test_behind_many_backslashes_all_text_is_hidden(backslashes: int, shown: bool) -> None:
    quote = "\\" * backslashes + '"'
    masked = mask(f"password={quote}canary{quote} behind")
    assert "canary" not in masked
    assert ("behind" in masked) is shown


@pytest.mark.parametrize(
    "secret", ["connect(password='canary')", "password=can'canary", 'password="it\'s canary"', "password=can@canary"]
)
@pytest.mark.parametrize("name", ["x password='", 'x password="', "x password=", "x 'redis://a:", "x 'password': '"])
def test_no_name_that_looks_like_a_secret_shows_another(name: str, secret: str) -> None:
    """Celery writes the id of a task, which its sender chooses, and the error of the task in the same line."""
    masked = mask(f"Task t[{name}] raised unexpected: OSError({secret})")
    assert "canary" not in masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "wants a password",
        "NOAUTH: the password is wrong",
        "token=5 seen=7 resource=mail:ann@example.org",
        "write redis://[user:password@]host:port[/db], rediss://... for TLS",
        "settings password=*** origins='password: REDLOCK_PASSWORD_FILE in the environment; ttl: --ttl'",
        "bypass=1 compass='north'",
    ],
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_a_masked_text_stays_as_it_is() -> None:
    masked = mask(f"{ADDRESS} password='canary'")
    assert masked == mask(masked) == "redis://user:***@h:1 password='***'"


@pytest.mark.parametrize(
    "value", [ADDRESS, [ADDRESS, None], {ADDRESS}, {"a": ADDRESS}, ADDRESS.encode(), "user:canary@h:1", ("u:canary@h",)]
)
@pytest.mark.parametrize("most", [10, 14, 20, 60])
def test_a_value_is_quoted_without_a_part_of_its_secret(value: object, most: int) -> None:
    said = quoted(value, most)
    assert "can" not in said
    assert len(said) <= most


LONG = 300_000


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("password='" + "\\" * 80, "password='***'"),
        ("password='" * (LONG // 10), "password='***'"),
        ("".join("password=" + "\\" * (place % 40) + "' " for place in range(LONG // 10)), "password='***'"),
        ("password=" + "\\" * LONG, "password=***"),
        ("password" + "\\" * LONG, "\\"),
        ("password=" + "\\n" * LONG, "password=***"),
        ("password" + "\\x20" * LONG + "\\" * LONG + "'", "'"),
        ("password" + "\\" * LONG + "'" + " " * LONG, " "),
        ("(password=x" * (LONG // 10), "(password=***"),
        (",password=x" + ",a" * LONG, "password=***"),
        ("password=" + ")" * LONG + "x", "password=***"),
        ("?kwargs=" + ")'" * LONG + "x", "?kwargs=***"),
        ("password" + " " * LONG + "password", "password"),
        ("a://b:" + "a" * LONG + "@", "a://b:***@"),
        ("a://@" + "a." * LONG, "a.a."),
        ("a://@" + "-://:" * LONG, "-://:"),
    ],
    ids=lambda text: f"{text[:12]}...",
)
def test_a_text_made_to_be_slow_is_masked_all_the_same(text: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks and nodes choose parts of messages. A search that takes hours would hold up all threads of the process."""
    monkeypatch.setattr(_masking, "_LONGEST", len(text))
    assert mask(text).endswith(end)
    assert len(quoted(text)) <= 60


@pytest.mark.parametrize(
    "begin", ["", "redis://u:", "'redis://u:white ", "?password=", "'password': '", "u password=' "]
)
def test_of_an_endless_text_only_the_beginning_is_searched(begin: str) -> None:
    """A search keeps all threads from running, also those that renew leases."""
    masked = mask(begin + "canary" * LONG + "@h password=canary")
    assert len(masked) <= 100_003
    assert masked.endswith("...")
    assert not begin or "canary" not in masked
    assert mask("canary " * LONG) == "canary " * LONG


@pytest.mark.parametrize("secret", ["user:canary@h", "redis://u:canary@h", "(password=a canary,db=1)"])
def test_no_end_of_a_long_value_shows_a_secret(secret: str) -> None:
    for distance in range(-30, 1, 3):
        shown = mask_input("x" * (100_000 + distance) + " " + secret)
        assert not [part for part in ("can", "ary") if part in shown]
        assert len(shown) <= 100_003


@pytest.mark.parametrize("text", ["a:" * LONG, "a:@" * LONG, ":" * LONG])
def test_a_value_made_to_be_slow_is_quoted_all_the_same(text: str) -> None:
    assert quoted(text)[:1] in {"'", "*"}


def test_an_error_masks_whatever_it_is_given() -> None:
    error = ConfigurationError(f"can't use {ADDRESS}")
    assert str(error) == "can't use redis://user:***@h:1"
    assert "canary" not in repr(error) + repr(error.args)
