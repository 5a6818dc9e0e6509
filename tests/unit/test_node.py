"""`address` and `node`: addresses, their error messages, and the pauses between dials."""

from __future__ import annotations

import logging
import threading
import time
import traceback

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from redlock import ConfigurationError, Redlock
from redlock._transport import address, dial
from redlock._transport.codec import SCRIPTS
from redlock._transport.exchange import Exchange
from redlock._transport.node import (
    ERRORS,
    Node,
    PendingConnection,
    UnsuitableNode,
    _check_answers,
    describe_failure,
)
from redlock._transport.node_health import NodeHealth
from redlock._transport.reply_reader import ReplyError
from tests.no_threads import no_thread

CANARY = "canary-b7Qx"


def refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Node(url, 100)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("h:1", "h:1"),
        ("redis://h:1", "h:1"),
        ("redis://h:1/", "h:1"),
        ("redis://h:1/0", "h:1"),
        ("redis://h:1/3", "h:1/3"),
        ("redis://h:1?db=3", "h:1/3"),
        ("rediss://h:1", "h:1"),
        ("rediss://h:1?ssl_cert_reqs=none", "h:1"),
        ("redis://H:1", "h:1"),
        ("redis://user:p%40ss%2Fw%3Ao%23rd@h:1/3", "h:1/3"),
        ("[::1]:7", "[::1]:7"),
        ("redis://[fe80::1]:7/2", "[fe80::1]:7/2"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("unix:///run/a.sock?db=2", "/run/a.sock"),
    ],
)
def test_an_address_and_what_the_node_is_called(url: str, label: str) -> None:
    assert Node(url, 100).label == label


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("redis://:p%40ss@h:1", "p@ss"),
        ("redis://user:p%3Ass@h:1", "p:ss"),
        ("redis://user:p%2Fss@h:1", "p/ss"),
        ("redis://user:p%23ss@h:1", "p#ss"),
        ("redis://user:p%3Fss@h:1", "p?ss"),
        ("redis://user:p%25ss@h:1", "p%ss"),
        ("redis://user:p%2Css@h:1", "p,ss"),
        ("redis://user:p%C3%BCss@h:1", "püss"),
        ("redis://user:p@ss@h:1", "p@ss"),
        ("redis://h:1?password=p%2Fss", "p/ss"),
        ("unix://user:p%40ss@/run/a.sock", "p@ss"),
        ("unix:///run/a.sock?password=p%40ss", "p@ss"),
    ],
)
def test_passwords_may_hold_anything_that_is_escaped(url: str, password: str) -> None:
    options = address.parse(url)
    assert options["password"] == password
    assert options.get("username") in {None, "user"}
    assert "ss" not in Node(url, 100).label


@pytest.mark.parametrize(
    "password", ["pa/ss", "12/ss", "pa#ss", "12#ss", "pa?ss", "12?ss", "pa[ss", "pa]ss", "p[a]ss", "pa\u2100"]
)
@pytest.mark.parametrize("place", ["user:{}@h:1", "{}@h:1/3", ":{}@127.0.0.1:1"])
def test_a_password_that_is_not_escaped_gets_a_hint(place: str, password: str) -> None:
    message = refusal("redis://" + place.format(password))
    assert "in a user name or password write %2F for /, %23 for #, %3F for ?, %5B for [, %5D for ] and" in message
    assert password not in message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "has no host"),
        ("h", "a node address has no port"),
        ("h:0", "a node address has no port"),
        ("redis://h", "the node address of h has no port"),
        ("h:70000", "no port from 1 to 65535"),
        ("redis://user:pass@h:70000", "no port from 1 to 65535"),
        ("redis://user:pass@h:70000/0?password=x@y", "no port from 1 to 65535"),
        ("redis://h:abc?client_name=me@host", "no port from 1 to 65535"),
        ("redis://u:p@h:1;redis://u:p@g:1", "no port from 1 to 65535"),
        ("redis://u:p@h:1 ,rediss://u:p@g:1", "no port from 1 to 65535"),
        ("h:1:2", "no port from 1 to 65535"),
        ("::1:6379", "no port from 1 to 65535"),
        ("redis://[::1:6379", "no port from 1 to 65535"),
        ("redis://:1", "has no host"),
        ("redis://h:1/one", "is no number"),
        ("redis://h:1/0/1", "is no number"),
        ("redis://h:1/-1", "is no number"),
        ("http://h:1", "begins with 'http'"),
        ("redis+cluster://h:1", "begins with 'redis+cluster'"),
        ("/run/a.sock", "has no host"),
        ("unix://", "has no path"),
        ("redis://h:1?db=x", "the option db"),
    ],
)
def test_a_bad_address_gives_the_fault_and_a_valid_form(url: str, said: str) -> None:
    message = refusal(url)
    assert said in message
    assert "write redis://[user:password@]host:port[/db]" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "nodes",
    [
        "canary",
        "canary?db=x",
        "redis://h:1?password=can,canary",
        "redis://h:1?password=can,canary/x",
        "redis://:canary,canary@h:1,redis://h:2,redis://h:3",
        "rediss://h:1?ssl_password=can canary&ssl_cert_reqs=x",
    ],
)
def test_a_text_that_may_be_a_password_is_not_repeated(nodes: str) -> None:
    """A comma ends an address in a list, and REDLOCK_NODES_FILE can name a file with a password."""
    with pytest.raises(ConfigurationError) as caught:
        Redlock(nodes)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("option", ["max_connections=4", "timeout=3", "nope=1", "connection_class=x"])
def test_an_unknown_address_option_is_refused(option: str) -> None:
    assert refusal(f"redis://h:1?{option}").startswith("node address of h:1 has an option that is not known")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "ssl_cert_reqs=CERT_NONE",
            "the option ssl_cert_reqs of the node address of h must be none, optional or required",
        ),
        (
            "ssl_cert_reqs=nonsense",
            "the option ssl_cert_reqs of the node address of h must be none, optional or required",
        ),
        ("password=x&socket_timeout=soon", "the option socket_timeout of the node address of h has a value that can't"),
        ("credential_provider=x&password=y", "an option of the node address of h:1 can't be used"),
    ],
)
def test_a_bad_option_value_is_refused_in_one_line(option: str, said: str) -> None:
    message = refusal(f"rediss://h:1?{option}")
    assert message.startswith(said)
    assert "\n" not in message


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}",
        f"redis://:{CANARY}@h",
        f"redis://{CANARY}:{CANARY}@h:x",
        f"redis://user:{CANARY}/x@h:1",
        f"redis://user:{CANARY}#x@h:1",
        f"redis://user:{CANARY}?x@h:1",
        f"redis://user:x@{CANARY}@h",
        f"redis://user:{CANARY}\N{ACCOUNT OF}@h:1",
        f"redis://:{CANARY}h:1",
        f"user:{CANARY}@h",
        f"redis://h?password={CANARY}",
        f"redis://h:1/x?password={CANARY}",
        f"redis://h:1?password={CANARY}&nope=1",
        f"redis://h:1?db={CANARY}",
        f"unix://user:{CANARY}@/a?db=x",
        f"unix:///a?password={CANARY}&db=x",
        f"http://user:{CANARY}@h:1",
        f"redis://:{CANARY}@h:99999",
        f"redis://:{CANARY}@h:x",
        f"redis://:{CANARY}@:1",
        f"redis://:{CANARY}@h:1/db",
        f"sentinel://:{CANARY}@h:1",
        f"redis://h:1?db=x&password={CANARY}",
        f"unix://?password={CANARY}",
        f"redis://:{CANARY}@h:1?no_such_option=1",
        f"redis://user:{CANARY}@h:1?db=db",
        f"redis://h:1?pasword={CANARY}",
    ],
)
def test_no_message_repeats_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Redlock([url, "redis://b:1", "redis://c:1"])
    said = (str(caught.value), repr(caught.value), *traceback.format_exception(caught.value))
    assert not any(CANARY in text for text in said)
    assert "\n" not in str(caught.value)


def test_a_node_that_is_listed_twice_is_named_by_its_label() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Redlock(["redis://h:2", f"redis://:{CANARY}@h:1", "redis://H:1/0"])
    assert str(caught.value).startswith("node h:1 is listed twice")


def test_a_new_client_dials_no_node_and_starts_no_thread() -> None:
    """The conftest refuses connections; no thread may be there to make one either."""
    before = set(threading.enumerate())
    with Redlock(["redis://h:1", "rediss://h:2", "unix:///run/a.sock"]) as client:
        client.lock("x")
        client.lease("x")
        assert before.issuperset(threading.enumerate()), "threads of earlier tests may end meanwhile"
        assert not any(node.error for node in client._context.pool.nodes)


def test_a_node_that_is_down_is_dialled_by_one_thread_at_a_time() -> None:
    node = NodeHealth("h:1")
    assert [node.may_dial(0) for _ in range(3)] == [True] * 3, "it is up"
    node.mark_down("connection refused", 0)
    assert not node.may_dial(0)
    assert [node.may_dial(1_000) for _ in range(3)] == [True, False, False]


def test_a_node_that_is_down_is_tried_by_one_waiter_at_a_time() -> None:
    node = NodeHealth("h:1")
    assert [node.may_wait(0) for _ in range(3)] == [True] * 3
    node.mark_down("connection refused", 0)
    assert not node.may_wait(999)
    assert [node.may_wait(1_000) for _ in range(3)] == [True, False, False]
    assert node.may_wait(2_000)
    node.refuse_wait("the node closed the connection", 2_000)
    assert not node.may_dial(2_199), "the second failure in a row"
    assert not node.may_wait(11_999)
    assert [node.may_wait(12_000) for _ in range(3)] == [True, False, False]
    assert node.may_dial(3_000), "rounds do not depend on waits"
    node.mark_up()
    assert [node.may_wait(12_000) for _ in range(3)] == [True] * 3


def test_the_pause_between_dials_grows_up_to_a_second() -> None:
    node, pauses = NodeHealth("h:1"), []
    for _ in range(50):
        node.mark_down("connection refused", 0)
        pauses.append(next(pause for pause in range(0, 2_000, 50) if node.may_dial(pause)))
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] <= 1_000


def test_a_dial_that_succeeds_resets_the_failures() -> None:
    node = NodeHealth("h:1")
    for _ in range(10):
        node.mark_down("connection refused", 0)
    node.mark_up()
    assert not node.error
    assert node.may_dial(0)
    node.mark_down("connection refused", 0)
    assert node.may_dial(200)


def test_going_down_and_coming_back_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(f"redis://:{CANARY}@h:1", 100)
    with caplog.at_level("INFO", "redlock"):
        for _ in range(3):
            node.mark_down("connection refused", 0)
        node.is_unused = True
        node.mark_up()
        assert node.may_dial(0)
        for _ in range(3):
            node.mark_up()
    assert caplog.messages == ["node-down node=h:1 reason='connection refused'", "node-up node=h:1"]


def test_all_dials_of_a_node_share_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def refuse(options: object, *_: object) -> None:
        seen.append(options)
        raise ConnectionRefusedError

    monkeypatch.setattr("redlock._transport.node.open_socket", refuse)
    node = Node("redis://h:1", 100)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            node.connect()
    assert seen[0] is seen[1]


def wrapped(cause: Exception) -> Exception:
    """As redis-py raises a socket error."""
    error = RedisConnectionError(f"Error connecting to h:1. {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (wrapped(ConnectionRefusedError(111, "Connection refused")), "connection refused"),
        (wrapped(FileNotFoundError(2, "No such file or directory")), "no such file or directory"),
        (wrapped(TimeoutError("timed out")), "no answer within 100 ms"),
        (UnsuitableNode("a replica of h:2; lock nodes must be independent masters"), "a replica of h:2"),
        (RedisConnectionError("Protocol Error: b'HTTP/1.1 400'"), "not as a Redis server does"),
        (RedisConnectionError(), "not as a Redis server does (ConnectionError)"),
        (RuntimeError("can't start new thread"), "can't be dialled (can't start new thread)"),
        (ValueError(), "can't be dialled (ValueError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_to_reach_a_node_is_told_in_words(error: Exception, said: str) -> None:
    assert said in describe_failure(error, 100)
    assert len(describe_failure(error, 100)) <= 200


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("NOAUTH Authentication required.", "wants a password"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "wrong user name or password"),
        ("ERR AUTH <password> called without any password configured", "wrong user name or password"),
        ("NOPERM User x has no permissions", "may not run"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("MISCONF Redis is configured to save", "MISCONF"),
    ],
)
def test_an_error_in_the_greeting_is_told_in_words(answer: str, said: str) -> None:
    with pytest.raises(UnsuitableNode, match=said):
        _check_answers([ReplyError(answer)] * 10, 1)


FULL_INFO = {"run_id": "r1", "redis_version": "8.2.3", "redis_mode": "standalone", "role": "master"}


def greeted(info: dict[str, str]) -> tuple[str, str]:
    """The result of a greeting with these fields of INFO, in both sections."""
    text = "".join(f"{name}:{value}\r\n" for name, value in info.items()).encode()
    return _check_answers([text, text, [None, None], *(script.sha for script in SCRIPTS.values())], 0)


@pytest.mark.parametrize("name", ["run_id", "role"])
def test_a_value_of_info_that_the_lock_needs_is_named(name: str) -> None:
    hidden = {key: value for key, value in FULL_INFO.items() if key != name}
    with pytest.raises(UnsuitableNode, match=f"does not report its {name} "):
        greeted(hidden)


@pytest.mark.parametrize("name", ["redis_version", "redis_mode"])
def test_the_lock_needs_no_other_value_of_info(name: str) -> None:
    assert greeted(FULL_INFO) == ("r1", "")
    assert greeted({key: value for key, value in FULL_INFO.items() if key != name}) == ("r1", "")


def test_a_name_is_asked_again_after_no_thread_started() -> None:
    with no_thread(), pytest.raises(ERRORS) as failure:
        Node("localhost:1", 100).connect()
    assert describe_failure(failure.value, 100) == "this process can't start a thread"
    assert dial._addresses("localhost", 1, time.monotonic() + 100)


class Dialled(Node):
    """A node whose dial ends when the test says so."""

    def __init__(self) -> None:
        super().__init__("h:1", 100)
        self.answer = threading.Event()
        self.closed = 0

    def connect(self, seconds: float | None = None, *, admin: bool = False) -> Exchange:  # noqa: ARG002 - as of `Node`
        self.answer.wait()
        if self.error:
            raise UnsuitableNode(self.error)
        return self  # type: ignore[return-value]  # only closed

    def close(self) -> None:
        self.closed += 1


def test_a_short_wait_for_a_dial_blames_no_node() -> None:
    node = Dialled()
    pending = PendingConnection(node)
    assert pending.take(0.099) is None
    with pytest.raises(UnsuitableNode, match="no answer within 100 ms"):
        pending.take(0.1)
    node.answer.set()
    pending.abandon()


def test_a_failed_dial_has_a_reason() -> None:
    node = Dialled()
    node.mark_down("connection refused", 0)
    node.answer.set()
    pending = PendingConnection(node)
    pending.done.wait()
    with pytest.raises(UnsuitableNode, match="connection refused"):
        pending.take(0.0)


def test_a_connection_that_was_taken_stays_open() -> None:
    node = Dialled()
    node.answer.set()
    pending, left = PendingConnection(node), PendingConnection(node)
    pending.done.wait()
    left.done.wait()
    assert pending.take(0.0) is not None
    pending.abandon()
    assert node.closed == 0
    left.abandon()
    assert node.closed, "now, or at the end of the dial too"


def test_a_connection_taken_at_the_end_of_its_dial_stays_open() -> None:
    node, may_end = Dialled(), threading.Event()
    node.answer.set()
    pending = PendingConnection(node, may_end.wait)  # type: ignore[arg-type]  # the result is ignored
    pending.done.wait()
    is_set = pending.done.is_set

    def taken_meanwhile() -> bool:
        pending.done.is_set = is_set  # type: ignore[method-assign]  # only the first look of the dial
        pending.take(0.0)
        pending.abandon()
        return True

    pending.done.is_set = taken_meanwhile  # type: ignore[method-assign]
    dial = next(thread for thread in threading.enumerate() if thread.name == f"redlock-dial-{node.label}")
    may_end.set()
    dial.join()
    assert node.closed == 0


def test_a_node_does_not_set_the_rate_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    node = NodeHealth("h:1")
    for now_ms in range(0, 3_000, 10):
        node.rejects(f"nodes={now_ms}", now_ms)
        if now_ms % 70 == 0:
            node.rejects("", now_ms)
        node.is_same_as(f"h:{2 + now_ms % 20}", now_ms)
        node.mark_down(f"reason {now_ms}", now_ms)
        node.is_silent("no answer within 100 ms", now_ms)
    lines = [line for line in caplog.messages if "node-disagrees" in line]
    assert [line.partition("nodes=")[2].strip("'") for line in lines] == ["0", "1000", "2000"]
    for event in ("node-duplicate", "node-down", "node-silent"):
        assert len([line for line in caplog.messages if event in line]) == 3


def test_every_second_dial_does_not_set_the_rate_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "redlock")
    node = NodeHealth("h:1")
    for now_ms in range(0, 3_000, 10):
        node.mark_down("answers, but not as a Redis server does", now_ms)
        node.mark_up()
    assert [line.partition(" ")[0] for line in caplog.messages] == ["node-down", "node-up"] * 3


def test_a_clock_does_not_set_the_rate_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    node, ahead_ms = NodeHealth("h:1"), 0
    for now_ms in range(0, 3_000, 10):
        if now_ms >= node.watch_from_ms:
            ahead_ms += 5_000
            node.watch(now_ms + ahead_ms, now_ms, now_ms)
    assert len([line for line in caplog.messages if "clock-jump" in line]) == 3


def test_another_address_of_a_server_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    node = NodeHealth("h:1")
    for now_ms in range(0, 10_000, 1_000):
        node.is_same_as("h:2", now_ms)
    assert caplog.messages == ["node-duplicate node=h:1 same_as=h:2"]


def test_a_clock_is_compared_ten_times_a_second() -> None:
    """Each reply has the time, and a comparison costs more than the rest of its reading."""
    node = NodeHealth("h:1")
    node.watch(5_000, 5_000, 5_000)
    assert node.watch_from_ms == 5_100


@pytest.mark.parametrize("event", ["node-down", "node-disagrees"])
def test_a_change_that_stays_is_logged_although_it_came_early(caplog: pytest.LogCaptureFixture, event: str) -> None:
    node = NodeHealth("h:1")
    tell = node.mark_down if event == "node-down" else node.rejects
    for now_ms, reason in ((0, "a"), (10, "b"), (1_010, "b"), (2_020, "b")):
        tell(reason, now_ms)
    assert [line[-1] for line in caplog.messages if event in line] == ["a", "b"]


def test_a_node_that_is_down_again_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    node = NodeHealth("h:1")
    node.mark_down("a", 0)
    node.mark_up()
    node.mark_down("a", 2_000)
    assert [line[-1] for line in caplog.messages if "node-down" in line] == ["a", "a"]
