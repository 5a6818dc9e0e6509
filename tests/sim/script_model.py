"""The reply of each script and the memory that the script leaves, in plain Python: its comments, read a second time.

Invariants: nothing is shared with the scripts. A model knows a set of resources only by its names, so a script that
treats the first name of a set differently from the others does not fit.
"""

from __future__ import annotations

from typing import TypeAlias

HOUR_MS, DAY_MS, LIMIT = 3_600_000, 86_400_000, 2**52 - 1

Reply: TypeAlias = "list[object] | str"
"""A list, or the first word of an error."""
Names: TypeAlias = "tuple[str, ...]"


def fence_of(name: str) -> str:
    return f"\x01redlock:fence:{name}"


def queue_of(name: str) -> str:
    """The key that says whether a lock has waiters."""
    return f"\x01redlock:queue:{name}"


def wake_of(name: str) -> str:
    return f"\x01redlock:wake:{name}"


def shown(text: str) -> str:
    """The part of a stored text that a reply has."""
    return text[:2_048]


class Model(dict[str, tuple[object, "int | None"]]):
    """The memory of a node: for each key its value and the end of its life.

    Args:
        now: The node's clock in milliseconds.
    """

    def __init__(self, now: int) -> None:
        super().__init__()
        self.now = now

    def text(self, key: str) -> str | None:
        """The value of a key, None if there is none."""
        return str(self[key][0]) if key in self else None

    def left(self, key: str) -> int:
        """As PTTL."""
        if key not in self:
            return -2
        end = self[key][1]
        return -1 if end is None else end - self.now

    def put(self, key: str, value: object, ms: int) -> None:
        """As SET with PX."""
        self[key] = value, self.now + ms

    def prolong(self, key: str, ms: int) -> None:
        """As PEXPIRE."""
        if key in self:
            self[key] = self[key][0], self.now + ms

    def fence(self, name: str) -> int:
        return int(self.text(fence_of(name)) or 0)

    @property
    def most(self) -> int:
        """The first token that is not valid."""
        return min((self.now + HOUR_MS) * 1_000, LIMIT)

    def acquire(
        self, names: Names, token: str, ttl_ms: int, proposed: int, waits_ms: int, *, woken: bool = False
    ) -> Reply:
        """Take all resources or none."""
        if proposed > self.most:
            return "FENCEAHEAD"
        denials: list[tuple[str, int]] = []
        for name in names:
            if self.fence(name) >= self.most:
                return "FENCESTORED"
            holder, queue = self.text(name), queue_of(name)
            if holder is not None and holder != token:
                denials.append((shown(holder), self.left(name)))
                if waits_ms > max(0, self.left(queue)) and waits_ms:
                    self.put(queue, "waited for", waits_ms)
            elif holder is None and self.text(queue) == "reserved" and not woken:
                denials.append(("", self.left(queue)))
        largest = max(proposed - 1, *(self.fence(name) for name in names))
        if denials:
            lefts = [left for _, left in denials]
            return [0, self.now, largest, denials[0][0], -1 if min(lefts) < 0 else max(lefts)]
        if all(self.text(name) == token for name in names):
            return [1, self.now, self.fence(names[0])]
        for name in names:
            self.put(name, token, ttl_ms)
            self.put(fence_of(name), str(largest + 1), DAY_MS)
        return [1, self.now, largest + 1]

    def confirm(self, names: Names, token: str, fence: int) -> Reply:
        """Set a larger fence for all resources or none."""
        if fence > self.most:
            return "FENCEAHEAD"
        for name in names:
            if self.text(name) != token or self.fence(name) >= fence:
                return [0, self.now, self.fence(name), shown(self.text(name) or ""), 0]
        for name in names:
            self.put(fence_of(name), str(fence), DAY_MS)
        return [1, self.now, fence]

    def _others(self, names: Names, token: str) -> list[str]:
        return [holder for name in names if (holder := self.text(name)) not in {None, token} and holder is not None]

    def extend(self, names: Names, token: str, ttl_ms: int) -> Reply:
        """Prolong all resources or none."""
        others = self._others(names, token)
        if others or any(self.text(name) is None for name in names):
            return [0, self.now, 0, shown(others[0]) if others else "", 0]
        for name in names:
            self.prolong(name, max(ttl_ms, self.left(name)))
            self.prolong(fence_of(name), DAY_MS)
        return [1, self.now, 0]

    def repair(self, names: Names, token: str, ttl_ms: int, fence: int) -> Reply:
        """Write what is missing of all resources, or nothing."""
        if fence > (self.now + HOUR_MS) * 1_000:
            return "FENCEAHEAD"
        others = self._others(names, token)
        if others:
            return [0, self.now, 0, shown(others[0]), 0]
        for name in names:
            if self.text(name) is None:
                self.put(name, token, ttl_ms)
            self.put(fence_of(name), str(max(fence, self.fence(name))), DAY_MS)
        return [1, self.now, fence]

    def wake(self, names: Names, wake_ms: int) -> Reply:
        """Leave a wake-up for each resource that has none."""
        without = [name for name in names if wake_of(name) not in self]
        for name in without:
            self.put(wake_of(name), ["1"], wake_ms)
        return [len(without)]

    def release(self, names: Names, token: str, wake_ms: int, reserve_ms: int) -> Reply:
        """Delete what is ours, and wake the waiters of every resource."""
        before = [self.text(name) for name in names]
        for name, holder in zip(names, before, strict=True):
            if holder == token:
                del self[name]
            if wake_ms and queue_of(name) in self:
                self.put(queue_of(name), "reserved", reserve_ms)
        if wake_ms:
            self.wake(names, wake_ms)
        denied = [holder or "" for holder in before if holder != token]
        return [0, 0, 0, shown(denied[0]), 0] if denied else [1, 0, 0]

    def inspect(self, names: Names) -> Reply:
        """The holder of one resource."""
        (name,) = names
        holder = self.text(name)
        return [1, 0, self.fence(name)] if holder is None else [0, 0, self.fence(name), shown(holder), self.left(name)]


def admit(
    record: dict[str, str], now: int, run_id: str, fingerprint: str, quarantine_ms: int
) -> tuple[Reply | None, dict[str, str]]:
    """The reply of a node that does not vote, None if the node votes; and its record afterwards."""
    if record.get("run_id") != run_id:
        return [2, now, quarantine_ms], {"run_id": run_id, "since": str(now), "quarantine": str(quarantine_ms)}
    if record.get("fingerprint", fingerprint) != fingerprint:
        return [3, now, shown(record["fingerprint"])], record
    longest = max(quarantine_ms, int(record.get("quarantine", 0)))
    since = min(int(record["since"]), now)
    after = record | {"quarantine": str(longest), "since": str(since)}
    if now - since < longest:
        return [2, now, longest - (now - since)], after
    return None, after | {"fingerprint": fingerprint}


def declare(record: dict[str, str], run_id: str) -> tuple[int, dict[str, str]]:
    """Whether the node votes by declaration, and its record afterwards."""
    declared = {"run_id": run_id, "since": "0"}
    return (1, declared) if record in ({}, declared) else (0, record)


FIELDS = ("fence", "owner", "section", "open", "value")
"""The fields of a state in the fenced store."""


def opened(state: dict[str, str], token: int, owner: str) -> list[object]:
    """The reply of `open`, which changes the state."""
    seen = int(state.get("fence", 0))
    if token < seen or (token == seen and owner != state.get("owner")):
        return ["STALE", seen]
    section = int(state.get("section", 0)) + 1
    state |= {"fence": str(token), "owner": owner, "section": str(section), "open": str(section)}
    return ["OPEN", section, state.get("value")]


def written(state: dict[str, str], old: str | None, right: tuple[str, str, str], value: str) -> list[object]:
    """The reply of `write`, which changes the state; `right` is token, owner and section."""
    if old is not None:
        return ["DUPLICATE", old]
    if (state.get("fence"), state.get("owner"), state.get("open")) != right:
        return ["STALE", int(state.get("fence", 0))]
    state |= {"open": "", "value": value}
    return ["WRITTEN", f"{right[0]}:{value}"]
