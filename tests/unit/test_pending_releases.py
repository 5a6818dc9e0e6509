"""`redlock._transport.pending_releases`: which releases are held back, for how long, and what is reported of them."""

from __future__ import annotations

from redlock._core.commands import Round, Wait
from redlock._core.protocol import Outcome, release
from redlock._transport.pending_releases import PendingRelease, PendingReleases
from tests.unit.helpers import grant
from tests.unit.memory_nodes import EXTENSION, RELEASE, RELEASED, Client


class Releasing(Client):
    def __init__(self) -> None:
        super().__init__()
        self.releases = PendingReleases()
        self.outcomes: list[tuple[int, Outcome]] = []

    def release(self) -> None:
        """Release a lease; its outcome is noted with its number."""
        steps, hold = release(grant()), self.releases.returns_at_once
        number = len(self.outcomes) + len(self.releases)
        tally = self.begin(next(steps).command, Wait.COUNTED, hold=hold)
        self.releases.note_round(self.now, hold=hold)
        self.releases.note_release(
            PendingRelease(tally, steps, lambda outcome: self.outcomes.append((number, outcome))), held=hold
        )

    def round(self) -> None:
        self.state.begin(Round(RELEASE, Wait.SENT, ()), self.now)
        self.releases.note_round(self.now, hold=False)
        self.write()

    def sent(self) -> int:
        return len(self[0].handle.commands)


def test_a_release_is_held_back_only_if_a_round_follows_soon() -> None:
    client = Releasing()
    client.release()
    assert client.sent() == 1, "the first is sent at once"
    client.now += 1
    client.round()
    client.release()
    assert client.sent() == 1, "the next round is expected within a millisecond"
    client.round()
    assert client.sent() == 2, "it goes out with the next round"
    client.release()
    client.now += 2
    client.round()
    client.release()
    assert client.sent() == 4, "the round came too late"


def test_it_is_time_to_send_after_2_ms_or_64_releases() -> None:
    client = Releasing()
    assert not client.releases.is_time_to_flush(client.now + 1_000), "nothing is held back"
    client.releases.returns_at_once = True
    client.release()
    assert not client.releases.is_time_to_flush(client.now + 2)
    assert client.releases.is_time_to_flush(client.now + 3)
    for _ in range(62):
        client.release()
        client.releases.returns_at_once = True
    assert not client.releases.is_time_to_flush(client.now)
    client.release()
    assert client.releases.is_time_to_flush(client.now)
    client.releases.flush(client.now)
    client.write()
    assert client.sent() == 64
    assert not client.releases.returns_at_once
    assert not client.releases.is_time_to_flush(client.now + 1_000)


def test_outcomes_are_reported_once_and_in_order() -> None:
    client = Releasing()
    for _ in range(3):
        client.release()
    client.answer((0, 1, 2), RELEASED * 2)
    client.releases.report(client.now)
    assert client.outcomes == [(0, Outcome.RELEASED), (1, Outcome.RELEASED)]
    client.now += 80
    client.releases.report(client.now)
    assert len(client.outcomes) == 2
    client.now += 1
    client.releases.report(client.now)
    assert client.outcomes[2:] == [(2, Outcome.UNKNOWN)]
    client.answer((0, 1, 2), RELEASED)
    client.releases.report(client.now)
    assert len(client.outcomes) == 3


def test_the_time_of_a_held_back_release_counts_from_its_send() -> None:
    client = Releasing()
    client.releases.returns_at_once = True
    client.release()
    client.now += 1_000
    client.releases.flush(client.now)
    client.write()
    client.releases.report(client.now + 80)
    assert not client.outcomes
    client.answer((0, 1, 2), RELEASED)
    client.releases.report(client.now)
    assert client.outcomes == [(0, Outcome.RELEASED)]


def test_a_release_can_be_ended_with_the_votes_it_has() -> None:
    client = Releasing()
    for _ in range(2):
        client.release()
    client.releases.report(client.now, over=1)
    assert client.outcomes == [(0, Outcome.UNKNOWN)]
    assert len(client.releases) == 1


def test_the_oldest_release_sets_the_time_to_send() -> None:
    client = Releasing()
    client.release()
    client.now += 1
    client.round()
    for _ in range(3):
        client.release()
        client.now += 1
    assert client.releases.held_back == 3
    assert client.releases.is_time_to_flush(client.now)


def test_only_the_round_after_a_release_shows_a_habit() -> None:
    client = Releasing()
    client.release()
    client.now += 1
    client.round()
    client.now += 1_000
    client.round()
    assert client.releases.returns_at_once, "the second round says nothing of releases"


def test_renewals_do_not_prolong_the_time_of_a_release() -> None:
    """Renewals are held back until all of them go out; a release that was sent before has 80 ms all the same."""
    client = Releasing()
    client.release()
    client.now += 80
    client.begin(EXTENSION, hold=True)
    client.releases.note_round(client.now, hold=True)
    client.releases.flush(client.now)
    client.write()
    assert client.sent() == 2
    client.releases.report(client.now + 1)
    assert client.outcomes == [(0, Outcome.UNKNOWN)]
