"""Faults: a list of timed faults, drawn before the schedule begins, and a nemesis that strikes at the grant.

Rules: each fault has a number and can be left out, so that a failure can be shrunk; a fault that heals by itself
says when.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from redlock._core.votes import FENCE_LIMIT
from redlock._transport.codec import fence_key
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.nodes import Node
    from tests.sim.options import Options
    from tests.sim.records import Lease
    from tests.sim.schedule import Schedule


MOODS = ("drip", "garbage", "mute", "half-closed", "reset", "hole")
"""How a node can misbehave, see `network`."""


class Fault(NamedTuple):
    """Something that goes wrong at a time."""

    number: int
    when: int
    kind: str
    target: int
    length: int
    detail: int


def draw(options: Options, chance: random.Random) -> list[Fault]:
    """The faults of a schedule, in the safety phase's first ten TTLs or so."""
    span = max(options.ttl_ms * 12, 3_000) * MS
    return [
        Fault(
            number,
            chance.randrange(span),
            chance.choice(options.faults),
            chance.randrange(60),
            int(chance.choice((0.05, 0.3, 1.2, 2.5)) * options.ttl_ms * MS),
            chance.randrange(1_000),
        )
        for number in range(options.fault_count)
    ]


def strike(schedule: Schedule, fault: Fault) -> None:
    schedule.world.note("fault", *fault)
    _ACTS[fault.kind](schedule, fault)


def _interrupt_client(schedule: Schedule, fault: Fault) -> None:
    client = schedule.client(fault.target)
    client.deliver(client.interrupt)


def _lack(what: str, schedule: Schedule, fault: Fault) -> None:
    """A process can start no thread, or open no socket, for a while."""
    client = schedule.client(fault.target)
    vars(client).update({what: True, "was_poor": True})
    schedule.world.after(fault.length, vars(client).update, {what: False})


def _marked(schedule: Schedule, fault: Fault) -> list[Node]:
    """The nodes whose bits in the detail are set."""
    return [node for node in schedule.nodes if (fault.detail >> node.place) & 1]


def _mood(schedule: Schedule, fault: Fault) -> None:
    """A node misbehaves for a while."""
    node = schedule.node(fault.target)
    moods = (*MOODS, "lying")
    node.mood = moods[fault.detail % len(moods)]
    schedule.world.after(fault.length, setattr, node, "mood", "")


def _lose_scripts(schedule: Schedule, fault: Fault) -> None:
    """SCRIPT FLUSH on some nodes."""
    for node in _marked(schedule, fault):
        node.scripts.clear()


def _cut(schedule: Schedule, fault: Fault) -> None:
    """Cut some connections of a client, in both directions or one."""
    client, until = schedule.client(fault.target), schedule.world.now + fault.length
    for node in _marked(schedule, fault):
        for back in (False, True):
            if not (fault.detail >> (6 + back)) & 1:
                schedule.network.cuts[client.name, node.place, back] = until


def _break(schedule: Schedule, fault: Fault) -> None:
    """A connection ends; its data may still arrive."""
    client = schedule.client(fault.target)
    place = fault.detail % len(schedule.nodes)
    for wire in schedule.network.wires_of(client):
        if wire.node.place == place:
            wire.cut_off()


def _freeze_node(schedule: Schedule, fault: Fault) -> None:
    node = schedule.node(fault.target)
    node.frozen_until = max(node.frozen_until, schedule.world.now + fault.length)


def _restart_node(schedule: Schedule, fault: Fault) -> None:
    """Crash, and come back with all, part or none of its memory."""
    node = schedule.node(fault.target)
    if node.up:
        node.stop()
        schedule.network.stop(node)
        memory = ("all", "none", "old")[fault.detail % 3]
        schedule.world.after(fault.length, _come_back, schedule, node.place, memory)


def _come_back(schedule: Schedule, place: int, memory: str) -> None:
    if not schedule.nodes[place].up:
        schedule.nodes[place].restart(memory)
        schedule.world.note("node is back", place, memory)


def _flush(schedule: Schedule, fault: Fault) -> None:
    node = schedule.node(fault.target)
    if node.up:
        node.flush()


def _damage_fence(schedule: Schedule, fault: Fault) -> None:
    """The token of a node becomes a number that no clock has shown."""
    node = schedule.node(fault.target)
    node.set(fence_key("a"), str(FENCE_LIMIT - 1 - fault.detail))


def _client_wall(schedule: Schedule, fault: Fault) -> None:
    schedule.client(fault.target).wall_offset_us += (fault.detail - 500) * 100 * MS


def _delete_key(schedule: Schedule, fault: Fault) -> None:
    for node in _marked(schedule, fault):
        node.delete("a")


def _jump(schedule: Schedule, fault: Fault) -> None:
    node = schedule.node(fault.target)
    node.offset_ms += fault.length // MS * (1 if fault.detail % 3 else -1)


def _rate(schedule: Schedule, fault: Fault) -> None:
    for node in _marked(schedule, fault):
        node.change_rate((700_000, 950_000, 1_083_333, 1_500_000)[fault.detail % 4])


def _init(schedule: Schedule, fault: Fault) -> None:
    """An operator wrongly declares an emptied node old enough."""
    node = schedule.node(fault.target)
    node.flush()
    node.declare()


_ACTS: dict[str, Callable[[Schedule, Fault], None]] = {
    "freeze client": lambda schedule, fault: schedule.client(fault.target).freeze(fault.length),
    "crash client": lambda schedule, fault: schedule.crash_client(fault.target),
    "interrupt": _interrupt_client,
    "fork": lambda schedule, fault: schedule.fork_client(fault.target),
    "stop client": lambda schedule, fault: schedule.stop_client(fault.target),
    "lack threads": functools.partial(_lack, "lacks_threads"),
    "lack sockets": functools.partial(_lack, "lacks_sockets"),
    "mood": _mood,
    "lose scripts": _lose_scripts,
    "cut": _cut,
    "break": _break,
    "freeze node": _freeze_node,
    "restart node": _restart_node,
    "flush": _flush,
    # A snapshot, for a later restart to go back to.
    "save": lambda schedule, fault: schedule.node(fault.target).save(),
    "redeliver": lambda schedule, fault: schedule.redeliver(fault.detail),
    "client wall": _client_wall,
    "damage fence": _damage_fence,
    "delete key": _delete_key,
    "jump": _jump,
    "rate": _rate,
    "init": _init,
}


def nemesis(schedule: Schedule, holder: int, lease: Lease) -> None:
    """Strike at the moment of grant, where it hurts most, with a fault that this schedule may have."""
    options, chance, now = schedule.options, schedule.world.chance, schedule.world.now
    number = schedule.strikes
    schedule.strikes += 1
    kind, target = chance.choice(options.faults), chance.randrange(60)
    voters = sorted(lease.certificate or lease.answered)
    length = int(chance.choice((0.3, 1.1, 2.5)) * options.ttl_ms * MS)
    if kind in {"freeze client", "crash client", "lack threads", "lack sockets"}:
        target = holder
    elif kind in {"freeze node", "restart node", "flush", "jump", "init"} and voters:
        target = chance.choice(voters)
    elif kind == "cut":
        target = holder + 1
    detail = chance.randrange(1_000)
    if kind == "delete key":
        detail = sum(1 << place for place in voters[: chance.randint(1, len(voters) or 1)])
    if number not in schedule.spared:
        # As a separate event: the client that was granted is still running.
        schedule.world.after(0, strike, schedule, Fault(1_000 + number, now, kind, target, length, detail))
