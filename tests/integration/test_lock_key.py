"""Keys of tasks whose arguments have no fixed order: the same in every process."""

from __future__ import annotations

import json
import os

import pytest

from tests.integration.shell import run_python

pytest.importorskip("django")


def test_keys_are_the_same_in_every_process() -> None:
    # With this seed, both the words and a pair of texts are in another order in a set.
    environment = os.environ | {"PYTHONHASHSEED": "2"}
    found = run_python("-m", "tests.integration.apps.keys", env=environment, check=True).stdout.splitlines()

    words = sorted(("red", "green", "blue", "black", "white", "pink"))
    text = json.dumps(words, separators=(",", ":"))
    order = {"by": dict.fromkeys(words, words), "words": words}
    assert found[:2] == [f"a:{text}", "a:" + json.dumps(dict.fromkeys(words, 1), separators=(",", ":"))]
    assert [json.loads(key[2:]) for key in found[2:5]] == [{text: 1}, order, {"order": order, "words": words}]
    row = "00000000-0000-0000-0000-000000000007"
    assert found[5:] == [
        "a:red",
        'a:["red","x"]',
        "a:2026-01-01T00:00:00+00:00",
        "a:2026-01-01",
        "a:00000000-0000-0000-0000-000000000001",
        "a:1.5",
        f"a:{row}",
        f"a:{row}",
        f'a:["{row}"]',
        f'a:{{"row":"{row}"}}',
        f"a:{row:>40}",
        "the key 'a:{value}' of task can't be made from this call: this Account has no primary key; save it first",
    ]
