"""The recipes of `docs/fencing.md` are run: a real HTTP server, real files, and the conformance kit on each."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redlock.errors import Stale
from redlock.fencing.conformance import INTERLEAVINGS, Lease, check, check_all
from tests.integration.fence_recipes import FileAdapter, ObjectAdapter, ObjectStore, VersionedAdapter, recipe, source
from tests.integration.threads import serving
from tests.integration.tools import ROOT

PATIENCE = 0.03
LONG_PATIENCE = 60.0
"""On a busy machine a step that need not wait takes long too, and would be counted as a wait."""
EXAMPLES = int(os.environ.get("FENCE_EXAMPLES", "3"))


@pytest.fixture
def objects() -> Iterator[ObjectStore]:
    server = ObjectStore()
    with serving(server):
        yield server


def test_the_page_keeps_its_promise_to_be_short() -> None:
    adapter = source("test_memory_fence.py").partition("class MemoryAdapter:")[2].partition("\n\n\n")[0]
    assert len(adapter.splitlines()) <= 40
    page = (ROOT / "docs" / "fencing.md").read_text()
    choices = page.partition("## Choose an adapter\n\n")[2].partition("\n## ")[0].split("\n\n")
    assert len(choices) >= 7
    assert max(len(choice.splitlines()) for choice in choices) <= 10


def test_a_conditional_write_loses_no_update(objects: ObjectStore) -> None:
    check_all(ObjectAdapter(recipe("object_store.py"), objects), patience=PATIENCE, examples=EXAMPLES)


@pytest.mark.parametrize(
    ("name", "fault", "interleaving", "words"),
    [
        ("object_store.py", ('{"If-Match": version} if version', "{} if version"), "I1", "its write is lost"),
        ("object_store.py", ('{"If-None-Match": "*"}', "{}"), "I4", "its write is lost"),
        ("object_store.py", ('stored["token"] > lease.fence or', ""), "I5", "passed with a stale token"),
        ("object_store.py", ('stored["owner"] != _owner(lease)', "False"), "I6", "passed with a stale token"),
        ("fenced_file.py", ("fcntl.flock(lock, fcntl.LOCK_EX)", "pass"), "I1", "lost"),
        ("fenced_file.py", ('_replace(beside, f"{lease.fence} {mine}")', "pass"), "I5", "passed with a stale token"),
    ],
)
def test_the_kit_finds_each_missing_part_of_a_recipe(
    objects: ObjectStore, tmp_path: Path, *, name: str, fault: tuple[str, str], interleaving: str, words: str
) -> None:
    module = recipe(name, *fault)
    adapter = ObjectAdapter(module, objects) if name == "object_store.py" else FileAdapter(module, tmp_path)
    with pytest.raises(AssertionError, match=words):
        check(adapter, INTERLEAVINGS[interleaving], patience=LONG_PATIENCE)


def test_a_write_that_stores_nothing_is_an_error(objects: ObjectStore) -> None:
    """Each read of a wrong address finds no object, as before the first write."""
    with pytest.raises(OSError, match=r"PUT .*: 404 Not Found"):
        recipe("object_store.py").update(objects.url("no-bucket/counter"), Lease(7), lambda _: 1)


def test_writers_at_once_update_an_object_in_turns(objects: ObjectStore) -> None:
    module, tokens, url = recipe("object_store.py"), itertools.count(1), objects.url("counter")

    def ten_updates(owner: int) -> int:
        refused = done = 0
        while done < 10:
            try:
                module.update(url, Lease(next(tokens), str(owner)), lambda value: (value or 0) + 1)
                done += 1
            except Stale:
                refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ten_updates, range(4)))
    assert module.read(url, Lease(next(tokens)))[1] == 40


def test_a_file_beside_its_token_loses_no_update(tmp_path: Path) -> None:
    check_all(FileAdapter(recipe("fenced_file.py"), tmp_path), patience=PATIENCE, examples=EXAMPLES)


HOLDER = """
import sys
from pathlib import Path
from fenced_file import fenced
from redlock import Stale
from redlock.fencing.conformance import Lease
lease = Lease(int(sys.argv[1]), sys.argv[1])
print("lease", flush=True)
input()
try:
    with fenced("log", lease) as replace:
        text = Path("log").read_text() if Path("log").exists() else ""
        print("inside", flush=True)
        input()
        replace(f"{text}{lease.fence} ")
    print("done")
except Stale as stale:
    print(stale)
"""


class Holder:
    """A process that enters the block at its first line of input, and writes at the second."""

    def __init__(self, directory: Path, token: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(token)],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": f"{directory}:{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def enter(self) -> None:
        """Enter the block, with a lease that is older."""
        self.expect("lease")
        self.go()

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def expect(self, words: str) -> None:
        assert self.process.stdout
        assert words in self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_frozen_and_killed_holders_of_a_file_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "fenced_file.py").write_text(source("fenced_file.py"))
    with contextlib.ExitStack() as stack:

        def start(token: int) -> Holder:
            holder = Holder(tmp_path, token)
            stack.callback(holder.end)
            return holder

        late, frozen, following, killed, after = (start(token) for token in (6, 7, 8, 9, 10))
        late.expect("lease")
        frozen.enter()
        frozen.expect("inside")
        frozen.process.send_signal(signal.SIGSTOP)
        following.enter()
        with (tmp_path / "log.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        frozen.process.send_signal(signal.SIGCONT)
        frozen.go()
        frozen.expect("done")
        following.expect("inside")
        following.go()
        following.expect("done")
        late.go()
        late.expect("token 6")
        assert (tmp_path / "log").read_text() == "7 8 ", "the frozen holder came first, and the late one not at all"

        killed.enter()
        killed.expect("inside")
        (tmp_path / "log.new").write_text("half of")
        after.enter()
        killed.process.kill()
        after.expect("inside")
        after.go()
        after.expect("done")
        assert (tmp_path / "log").read_text() == "7 8 10 "


def test_an_external_version_keeps_the_newer_content(objects: ObjectStore) -> None:
    module, url = recipe("versioned.py"), objects.url("report")
    for token, content in ((7, "seven"), (9, "nine"), (9, "nine again")):
        module.put(url, Lease(token), content)
    with pytest.raises(Stale) as caught:
        module.put(url, Lease(8), "eight")
    assert (caught.value.token, caught.value.seen) == (8, 9)
    assert objects.content("report")["_source"] == "nine again"


def test_an_external_version_is_no_fence_for_a_read(objects: ObjectStore) -> None:
    adapter = VersionedAdapter(recipe("versioned.py"), objects)
    for name in ("I5", "I8"):
        check(adapter, INTERLEAVINGS[name], patience=0.1)
    with pytest.raises(AssertionError, match="its write is lost"):
        check(adapter, INTERLEAVINGS["I1"], patience=LONG_PATIENCE)
