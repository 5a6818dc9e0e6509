"""A client's connections to the nodes, like those of the driver for threads, over a faulty network.

Invariants, as in `redlock/_transport`:
1. Replies come back in order and keep their ticket. A late reply never counts for another round.
2. A node that let a round time out is suspect: it gets no acquire, and no round waits for it, until its next reply.
3. A connection that ended is dialled again, and reads the server's run_id and fingerprint again.
4. A client that nodes reject, and that no larger number of nodes accepts, sends no command that asks for a vote.
5. A cancel uses only existing connections.
6. The network may also deliver data of a broken connection later than data of its successor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock._core.commands import Acquire, Confirm, Inspect, Round, Wait
from tests.sim.world import MS, Actor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from redlock._core.protocol import Steps
    from redlock._core.votes import RoundResult, Vote
    from redlock._transport.codec import Call, Codec
    from tests.sim.clients import Client
    from tests.sim.nodes import Node
    from tests.sim.options import Options

_SUSPECT_MS = 1_000


class Network:
    """Delays, and the times until which connections are cut."""

    __slots__ = ("_base_us", "_random", "cuts", "options", "rough", "world")

    def __init__(self, options: Options, world: Any) -> None:  # noqa: ANN401 - the world
        self.options = options
        self.world = world
        self.rough = options.tail > 0
        self._base_us, self._random = options.delay_us, world.chance.random
        self.cuts: dict[tuple[str, int, bool], int] = {}

    def delay(self) -> int:
        """One message's way: mostly short, sometimes very long."""
        if self.rough and self._random() < self.options.tail:
            return int(self._base_us + self._random() ** 3 * self.options.ttl_ms * 2 * MS)
        return int(self._base_us * (0.5 + self._random()))

    def cut_until(self, client: str, place: int, *, back: bool) -> int:
        """When data that is sent now in this direction may leave; 0 means at once."""
        until = self.cuts.get((client, place, back), 0) if self.cuts else 0
        return until if until > self.world.now else 0


class SimConnection:
    """One connection to one node."""

    __slots__ = (
        "agreed",
        "asked",
        "bad_until",
        "client",
        "connection",
        "last_back",
        "last_there",
        "node",
        "place",
        "refusal",
        "run_id",
        "suspect_since",
        "up",
    )

    def __init__(self, client: Client, node: Node) -> None:
        self.client, self.node, self.place = client, node, node.place
        self.up = False
        self.connection = 0
        self.run_id = ""
        self.last_there = self.last_back = 0
        self.suspect_since: int | None = None
        self.bad_until = 0
        self.refusal: Vote | None = None
        self.agreed = False
        self.asked = 0
        """Voting commands that are not answered yet."""

    @property
    def may_agree(self) -> bool:
        """As `redlock._transport.connection.NodeConnection.may_agree`."""
        return self.agreed or (self.refusal is None and self.asked > 0)

    def drop(self) -> None:
        """The connection has ended."""
        self.up = False
        self.suspect_since = None
        self.asked = 0

    def send(self, call: Call, ticket: int) -> None:
        """Send a command, which arrives in order, late, or never."""
        world, network = self.node.world, self.client.network
        cut = network.cut_until(self.client.name, self.place, back=False)
        arrival = max(self.last_there + 1, max(cut, world.now) + network.delay())
        self.last_there = arrival
        self.asked += call.script.admits
        world.at(arrival, self._arrive, call, ticket, self.connection, self.run_id)

    def _arrive(self, call: Call, ticket: int, connection: int, run_id: str) -> None:
        node, world = self.node, self.node.world
        if not node.up or node.run_id != run_id:
            self.client.deliver(self._ended, connection)
            return
        if node.frozen_until > world.now:
            world.at(node.frozen_until, self._arrive, call, ticket, connection, run_id)
            return
        reply = node.call(call, run_id)
        if world.recording:
            world.note("node", node.place, call.script.sha[:6].decode(), call.arguments[-4:], reply)
        network = self.client.network
        cut = network.cut_until(self.client.name, self.place, back=True)
        back = max(self.last_back + 1, max(cut, world.now) + network.delay())
        self.last_back = back
        world.at(back, self.client.deliver, self._receive, reply, ticket, connection, call.script.admits)

    def _ended(self, connection: int) -> None:
        if self.up and connection == self.connection:
            self.drop()
            self.client.links.lost(self.place)

    def _receive(self, reply: Any, ticket: int, connection: int, admits: bool) -> None:  # noqa: ANN401, FBT001 - whatever the script gave
        if self.up and connection == self.connection:
            self.suspect_since = None
            vote = self.client.codec.decode(reply)
            self.asked -= admits
            if vote.time_ms:
                self.refusal = vote if vote.fingerprint else None
                self.agreed = vote.kind.value != "S"
            self.client.links.answer(self.place, ticket, vote)


class SimConnections:
    """A connection set, used by one actor at a time."""

    def __init__(self, client: Client, nodes: list[Node], codec: Codec) -> None:
        self.client = client
        self.codec = codec
        self.links = [SimConnection(client, node) for node in nodes]
        self.rules, self.tally = client.schedule.source.votes, client.schedule.source.vote_tally
        self.quorum = self.rules.quorum_of(len(nodes))
        self._silent: Callable[[str], Vote] = self.rules.silent
        self._unanswered: Vote = self.rules.UNANSWERED
        self._granted, self._denied = self.rules.Kind.GRANTED, self.rules.Kind.DENIED
        self.ticket = 0
        self.round: Round | None = None
        self.votes: list[Vote] = []
        self.waiting: Actor | None = None
        self._busy = False
        self._queue: list[Actor] = []

    def take(self, actor: Actor) -> None:
        """Resume when this actor has the connections alone."""
        if self._busy:
            self._queue.append(actor)
        else:
            self._busy = True
            actor.machine.world.after(1, actor.wake, None)

    def leave(self) -> None:
        """Let the next actor in."""
        if self._queue:
            actor = self._queue.pop(0)
            actor.machine.world.after(1, actor.wake, None)
        else:
            self._busy = False

    def run(self, steps: Steps[Any]) -> Generator[Any, Any, Any]:
        """Execute the rounds of a protocol generator, alone on these connections."""
        yield (self.take,)
        try:
            round_ = next(steps)
            while True:
                round_ = steps.send((yield from self.ask(round_)))
        except StopIteration as stop:
            return stop.value
        finally:
            self.leave()

    def ask(self, round_: Round) -> Generator[Any, Any, RoundResult]:
        """One round."""
        clock = self.client.clock_ms
        call = self.codec.script_call(round_.command)
        if round_.wait is not Wait.SENT:
            yield from self._make_ready(admits=call.script.admits)
        if isinstance(round_.command, Confirm):
            self.client.schedule.confirming(self.client)
        self.ticket += 1
        sent_ms, barred = clock(), call.script.admits and self._is_barred()
        self.round, self.votes = round_, [self._send(link, round_, call, barred) for link in self.links]
        if isinstance(round_.command, Acquire):
            self.client.schedule.sent(self.client)
        if round_.wait is not Wait.SENT and not self._over():
            yield (self._await, self.ticket)
        self.round = None
        rejecting = self._rejecting
        final = rejecting >= self.quorum or all(link.up for link in self.links)
        if rejecting and not (final and self._is_barred()):
            self.votes = [vote._replace(fingerprint="") if vote.fingerprint else vote for vote in self.votes]
        round_result: RoundResult = self.rules.RoundResult(tuple(self.votes), sent_ms, clock())
        return round_result

    @property
    def _rejecting(self) -> int:
        return sum(link.refusal is not None for link in self.links)

    def _is_barred(self) -> bool:
        rejecting = self._rejecting
        return rejecting > 0 and sum(link.may_agree for link in self.links) <= rejecting

    def _send(self, link: SimConnection, round_: Round, call: Call, barred: bool) -> Vote:  # noqa: FBT001 - as above
        if round_.to is not None and link.place not in round_.to:
            return self._silent("not asked")
        if barred:
            return link.refusal or self._silent("not asked")
        suspect = link.suspect_since is not None
        if not link.up or (suspect and isinstance(round_.command, Acquire | Inspect)):
            return self._silent("down")
        link.send(call, self.ticket)
        return self._silent("suspect") if suspect else self._unanswered

    def _make_ready(self, *, admits: bool) -> Generator[Any, Any, None]:
        now_ms, world = self.client.clock_ms(), self.client.world
        for link in self.links:
            if link.suspect_since is not None and now_ms - link.suspect_since > _SUSPECT_MS:
                link.drop()
                link.bad_until = now_ms + world.chance.randint(100, 1_000)
        if admits and self._is_barred():
            for link in self.links:
                if link.refusal is not None:
                    link.drop()
        slowest = 0
        for link in self.links:
            if not link.up and now_ms >= link.bad_until:
                slowest = max(slowest, self._dial(link, now_ms))
        if slowest:
            yield (_wait, slowest)

    def _dial(self, link: SimConnection, now_ms: int) -> int:
        client, node, world = self.client, link.node, self.client.world
        cut = any(client.network.cut_until(client.name, link.place, back=back) for back in (False, True))
        if not node.up or cut or node.frozen_until > world.now:
            link.bad_until = now_ms + world.chance.randint(100, 1_000)
            return 0 if not node.up else client.options.timeout_ms * MS
        link.up, link.run_id, link.suspect_since = True, node.run_id, None
        fingerprint = node.fingerprint()
        link.agreed = fingerprint == self.codec.fingerprint
        link.refusal = self.client.codec.disagrees(fingerprint) if fingerprint and not link.agreed else None
        link.connection += 1
        # A new connection owes its predecessor no order.
        link.last_there = link.last_back = world.now
        return client.network.delay() * 2

    def _over(self) -> bool:
        granted = denied = unanswered = 0
        for vote in self.votes:
            granted += vote.kind is self._granted
            denied += vote.kind is self._denied
            unanswered += vote.unanswered
        wait = Wait.DECIDED if self.round is None else self.round.wait
        if wait is Wait.ALL:
            return unanswered == 0
        if wait is Wait.COUNTED:
            done: bool = self.tally.is_counted(granted, denied, unanswered, self.quorum)
            return done
        over: bool = self.tally.is_decided(granted, unanswered, self.quorum)
        return over

    def _await(self, actor: Actor, ticket: int) -> None:
        self.waiting = actor
        world = self.client.world
        world.after(self.client.options.timeout_ms * MS, self.client.deliver, self._timeout, ticket)

    def _timeout(self, ticket: int) -> None:
        if ticket != self.ticket or self.round is None or self.waiting is None:
            return
        for place, vote in enumerate(self.votes):
            if vote.unanswered:
                self.votes[place] = self.rules.timed_out("timed out")
                self.links[place].suspect_since = self.client.clock_ms()
        self._resume()

    def answer(self, place: int, ticket: int, vote: Vote) -> None:
        """An answer has come."""
        if ticket == self.ticket and self.round is not None:
            self.votes[place] = vote
            self._check()

    def lost(self, place: int) -> None:
        """A connection has ended."""
        if self.round is not None and self.votes[place].unanswered:
            self.votes[place] = self._silent("ended")
            self._check()

    def _check(self) -> None:
        if self.waiting is not None and self._over():
            self._resume()

    def _resume(self) -> None:
        actor, self.waiting = self.waiting, None
        if actor is not None:
            actor.wake(None)


def _wait(actor: Actor, length: int) -> None:
    actor.machine.world.after(length, actor.wake, None)
