"""The exhaustive search: complete without a violation for the shipped protocol, with one for each broken variant."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from redlock._core.commands import Acquire, Command, Confirm, Release, Repair
from redlock._core.votes import Kind, Vote
from redlock._transport import codec
from redlock._transport.decoder import decode
from tests.sim import exhaustive_nodes as model
from tests.sim import exhaustive_store as store
from tests.sim import nodes as simulated
from tests.sim.exhaustive_nodes import Node
from tests.sim.exhaustive_rules import BROKEN, COMPLETE, LIMITS, QUICK, REDUNDANT, SHIPPED, Config
from tests.sim.exhaustive_search import Search
from tests.sim.exhaustive_walk import Walk, view
from tests.sim.nodes import EPOCH_MS, Lua
from tests.sim.world import World
from tests.unit.helpers import script_call

MAX_TTL_MS = 1_000
CODEC = codec.Codec(nodes=3, prefix="", max_ttl_ms=MAX_TTL_MS)
FENCES = (0, 1, 2, 3, EPOCH_MS * 1_000, (EPOCH_MS + 3_600_000) * 1_000 - 9)
TOKENS = ("one:c1", "two:c2", "three:c3")
FENCE = codec.fence_key("r")


@pytest.fixture(scope="module")
def lua() -> Lua:
    return Lua()


@pytest.mark.parametrize("config", QUICK.values(), ids=QUICK)
def test_what_is_shipped_keeps_its_promise_in_every_state(config: Config) -> None:
    found = Search(SHIPPED, config).run()
    assert not found.breach, "\n".join(found.steps)
    assert found.states > 1_000


def _marked(name: str) -> object:
    # The largest searches. `test_scripts.py` and the search of the pairs above find the same faults.
    large = name in {"repair-lowers", "no-quarantine-pairs"}
    return pytest.param(name, marks=pytest.mark.long(ci=True)) if large else name


@pytest.mark.parametrize("name", [*map(_marked, [*BROKEN, *LIMITS])])
def test_a_broken_variant_has_a_counter_example(name: str) -> None:
    rules = {**BROKEN, **LIMITS}[name]
    found = Search(rules, rules.config).run()
    assert found.breach
    assert len(found.steps) == found.depth


@pytest.mark.parametrize("name", [*map(_marked, REDUNDANT)])
def test_a_redundant_rule_can_go(name: str) -> None:
    rules = REDUNDANT[name]
    found = Search(rules, dataclasses.replace(rules.config, attempts=2)).run()
    assert not found.breach, "\n".join(found.steps)


def test_broken_variants_break_promises_after_a_memory_loss() -> None:
    for name in (
        "largest-answer",
        "no-confirm",
        "confirm-unchecked",
        "late-counts",
        "acquire-keeps",
        "acquire-believes",
    ):
        assert Search(BROKEN[name], QUICK["pairs"]).run().breach, name


def test_random_walks_see_nothing_that_the_search_has_not_seen() -> None:
    config = Config(clocks=(1, 2, 3))
    search = Search(SHIPPED, config)
    search.run(keep_ways=False)
    known = {view(*search.shape.unpack(state)) for state in search.seen}
    chance, seen = random.Random(1), set()
    for _ in range(3_000):
        walk = Walk(config, chance)
        while walk.step():
            assert walk.seen() in known
            seen.add(walk.seen())
    assert len(seen) > len(known) / 2


def test_the_store_serialises_in_token_order_whatever_the_tokens() -> None:
    found = [store.search(plan) for plan in store.plans(2)]
    assert not [each for each in found if each.breach]


@pytest.mark.parametrize("name", store.BROKEN)
def test_a_broken_store_has_a_counter_example(name: str) -> None:
    assert any(store.search(plan, store.BROKEN[name]).breach for plan in store.plans(2))


def test_right_clocks_are_later_than_any_fence_before_the_loss() -> None:
    for config in (*COMPLETE.values(), *QUICK.values()):
        assert min(config.later, default=31) > max(config.clocks) + 3 * (config.attempts - 1)


def _transcribed(node: Node, command: Command) -> tuple[Node, Vote]:
    if isinstance(command, Acquire):
        return model.acquire(node, command.token, command.proposed)
    if isinstance(command, Confirm):
        return model.confirm(node, command.token, command.fence)
    if isinstance(command, Repair):
        return model.repair(node, command.token, command.fence)
    assert isinstance(command, Release)
    return model.release(node, command.token)


def test_the_transcription_does_what_the_scripts_do(lua: Lua) -> None:
    chance, server = random.Random(2), simulated.Node(World(0), lua, 0)
    server.declare()
    granted = 0
    for _ in range(4_000):
        before = Node(chance.choice(("", *TOKENS)), chance.choice(FENCES))
        for key, value in (("r", before.holder), (FENCE, before.fence)):
            server.delete(key)
            if value:
                server.set(key, str(value))
        token, fence = chance.choice(TOKENS), max(1, chance.choice(FENCES) + chance.randint(-1, 1))
        command = chance.choice(
            (
                Acquire(("r",), token, MAX_TTL_MS, fence),
                Confirm(("r",), token, fence),
                Repair(("r",), token, MAX_TTL_MS, fence),
                Release(("r",), token, 0),
            )
        )
        after, expected = _transcribed(before, command)
        vote = decode(server.call(script_call(CODEC, command), server.run_id))
        assert Vote(vote.kind, vote.fence, vote.holder) == expected, (before, command)
        assert Node(server.get("r") or "", int(server.get(FENCE) or 0)) == after, (before, command)
        granted += vote.kind is Kind.GRANTED
    assert 1_000 < granted < 3_000


def test_the_transcribed_doors_do_what_the_scripts_do(lua: Lua) -> None:
    chance = random.Random(4)
    for _ in range(300):
        server, state = simulated.Node(World(0), lua, 0), store.Store()
        for _ in range(10):
            run = store.Run(chance.choice("xy"), chance.randint(1, 3), chance.choice("ab"))
            right: tuple[str, ...] = (str(run.token), run.owner)
            if chance.random() < 0.5:
                state, section = store.open_door(state, run)
                reply: Any = server.store("open", ("s",), right)
                assert reply[0] == ("STALE" if section is None else "OPEN")
                assert section is None or reply[1] == section
            else:
                section = chance.randint(max(1, state.section - 1), max(1, state.section))
                state, said = store.write_door(state, run, section, state.value + 1)
                words = (*right, str(section), str(state.value + (said != "WRITTEN")), "1000")
                reply = server.store("write", ("s", codec.operation_key("s", run.operation)), words)
                assert reply[0] == said
            assert int(server.field("s", "value") or 0) == state.value
            assert int(server.field("s", "fence") or 0) == state.fence
