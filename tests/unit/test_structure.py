"""The shape of the code: the public names are one list, files are small, and each says its purpose.

The order of imports is in `pyproject.toml`; `make lint` checks it with import-linter.
"""

from __future__ import annotations

import ast
import importlib
import re
from contextvars import ContextVar
from pathlib import Path

import pytest

import redlock
import redlock.asyncio
from redlock._locking.caller_context import caller_context, package_variable

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("redlock", "tasks", "workers") for path in (ROOT / package).rglob("*.py"))
NODES = [f"redis://127.0.0.1:{port}" for port in range(1, 6)]
PUBLIC_PACKAGES = ("asyncio", "celery", "fencing", "testing")


def test_the_public_names_are_this_list() -> None:
    assert redlock.__all__ == [
        "ConfigurationError",
        "Lease",
        "Lock",
        "LockContended",
        "LockHolder",
        "LockLost",
        "NoThread",
        "NotHeld",
        "Outcome",
        "QuorumUnavailable",
        "Redlock",
        "RedlockError",
        "Stale",
    ]
    assert all(hasattr(redlock, name) for name in redlock.__all__)


def test_the_variables_of_the_package_stay_out_of_on_lost() -> None:
    """Only the holders of leases name their thread or task themselves."""
    made = [path.name for path in MODULES if re.search(r"= ContextVar\(", path.read_text())]
    assert made == ["caller_context.py", "held_leases.py"]
    known, own = ContextVar[str]("known"), package_variable("own", "default")
    known.set("known")
    own.set("own")
    context = caller_context()
    assert (context[known], context[own], own.get()) == ("known", "default", "own")


def test_type_checkers_may_read_the_annotations() -> None:
    """Without this file, they take everything from an installed package for `Any`."""
    assert (ROOT / "redlock" / "py.typed").is_file()


_LOCK = "acquire extend fence lease locked name names owned reacquire release"
_LEASE = (
    "acquire close ensure_valid extend fence is_held is_lost names outcome owner release remaining resource rounds "
    "ttl_ms waited_ms"
)


def test_the_public_attributes_are_these_lists() -> None:
    with redlock.Redlock(NODES) as client:
        found = {
            "client": client,
            "lock": client.lock("x"),
            "lease": client.lease("x"),
            "asyncio client": redlock.asyncio.Redlock(NODES),
            "asyncio lock": redlock.asyncio.Redlock(NODES).lock("x"),
            "asyncio lease": redlock.asyncio.Lease,
        }
        assert {name: " ".join(public(one)) for name, one in found.items()} == {
            "client": "close holder lease lock observe_fence",
            "lock": _LOCK,
            "lease": _LEASE,
            "asyncio client": "aclose holder lock observe_fence",
            "asyncio lock": _LOCK,
            "asyncio lease": _LEASE.replace(" names", "").replace(" ttl_ms", ""),
        }


def public(one: object) -> list[str]:
    return [name for name in dir(one) if not name.startswith("_")]


@pytest.mark.parametrize("name", PUBLIC_PACKAGES)
def test_a_public_package_lists_its_names(name: str) -> None:
    package = importlib.import_module(f"redlock.{name}")
    assert package.__all__
    assert all(hasattr(package, one) for one in package.__all__)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_states_its_purpose_and_is_small(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 300, "does it hold a second concept?"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_docstring_is_short_up_to_its_invariants(path: Path) -> None:
    """Lists, examples and invariants may follow."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    begin, _, _ = docstring.partition("\nInvariants")
    begin, _, _ = begin.partition("\nRules")
    prose = "\n".join(line for line in begin.splitlines() if not line.startswith("    "))
    assert len(re.findall(r"[.!?](?=\s|$)", prose)) <= 4, "state the rest as invariants"


def test_a_package_has_at_most_25_modules() -> None:
    folders = {path.parent for path in MODULES}
    crowded = {str(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in crowded.items() if count > 25} == {}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "redlock" / "_transport" / "scripts").glob("*.lua")), ids=lambda path: path.stem
)
def test_a_script_opens_with_its_keys_and_arguments(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("--")]
    assert any("KEYS" in line for line in head)


def test_only_one_module_starts_threads() -> None:
    """Others would forget to block the signals. The conformance kit calls code of the application in its threads."""
    package = ROOT / "redlock"
    starts = re.compile(r"\b(Thread|Timer|start_new_thread|ThreadPoolExecutor)\(")
    found = {
        str(path.relative_to(package))
        for path in MODULES
        if package in path.parents and starts.search(path.read_text())
    }
    assert found == {"_threads.py", "fencing/conformance.py"}
