"""The shape of the code: imports point down, the public surface is one list, files are small and say their purpose."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import redlock

ROOT = Path(__file__).parents[2]

# Each module may import, at run time, only from those before it.
ORDER = [
    "masking",
    "errors",
    "escaping",
    "clock",
    "process",
    "mutex",
    "commands",
    "model",
    "fences",
    "ballot",
    "protocol",
    "waiting",
    "watch",
    "log",
    "background",
    "checks",
    "files",
    "lock_misuse",
    "address",
    "wire",
    "told",
    "replies",
    "exchange",
    "opening",
    "nodes",
    "link",
    "bundle",
    "pending",
    "sync",
    "behind",
    "driver",
    "verdict",
    "journal",
    "held",
    "renewal",
    "gate",
    "waiters",
    "wait_report",
    "wait_publisher",
    "wait_registry",
    "patience",
    "candidate",
    "lease_steps",
    "lease",
    "reentrance",
    "lock",
    "lifecycle",
    "client",
    "settings",
    "conf",
    "store",
    "admission",
    "look",
    "survey",
    "findings",
    "broker_check",
    "visibility",
    "doctor",
    "status",
    "force",
    "embedded",
    "program",
    "run",
    "testing",
    "canonical",
    "keys",
    "misuse",
    "pools",
    "duplicates",
    "delivery",
    "policy",
    "interrupt",
    "events",
    "board",
    "metrics",
    "pulse",
    "worker_start",
    "celery",
    "flower",
    "simulate",
    "options",
    "cli",
    "celery_command",
]
PURE = {"model", "fences", "commands", "ballot", "protocol", "waiting", "watch"}
IMPURE = {"time", "random", "secrets", "socket", "redis", "hiredis", "threading", "selectors", "os", "celery"}


@functools.cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports at run time, in dotted form."""
    tree = ast.parse(path.read_text())
    types_only = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for child in branch.body
        for node in ast.walk(child)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_down(name: str) -> None:
    below = set(ORDER[: ORDER.index(name)])
    ours = {part.split(".")[1] for part in imports(ROOT / "redlock" / f"{name}.py") if part.startswith("redlock.")}
    assert {one for one in ours if one in ORDER} <= below


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_modules_and_never_the_package(name: str) -> None:
    """The package's own names are made of the modules; a module that asked for them would import in a circle."""
    found = imports(ROOT / "redlock" / f"{name}.py")
    from_the_package = {part.split(".")[1] for part in found if part.count(".") == 1 and part.startswith("redlock.")}
    assert from_the_package <= {*ORDER}


def test_the_order_names_every_module() -> None:
    assert {path.stem for path in modules("redlock")} == {*ORDER, "__init__", "__main__"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_algorithm_reads_no_clock_and_no_chance_and_does_no_io(name: str) -> None:
    roots = {part.partition(".")[0] for part in imports(ROOT / "redlock" / f"{name}.py")}
    assert not roots & IMPURE


def test_the_lock_knows_nothing_of_the_example_and_the_workers_nothing_of_the_tasks() -> None:
    for path in modules("redlock"):
        assert not {part.partition(".")[0] for part in imports(path)} & {"workers", "tasks", "tests"}, path.name
    for path in modules("workers"):
        assert not {part.partition(".")[0] for part in imports(path)} & {"tasks", "tests"}, path.name


def test_celery_is_imported_only_where_it_is_integrated() -> None:
    users = {
        path.stem for path in modules("redlock") if any(part.partition(".")[0] == "celery" for part in imports(path))
    }
    assert users == {
        "conf",
        "celery",
        "delivery",
        "duplicates",
        "policy",
        "interrupt",
        "misuse",
        "events",
        "board",
        "pools",
        "pulse",
        "worker_start",
    }


def test_the_public_surface_is_this_list() -> None:
    assert redlock.__all__ == [
        "ConfigurationError",
        "LockHolder",
        "Lease",
        "Lock",
        "LockContended",
        "LockLost",
        "NotHeld",
        "Outcome",
        "QuorumUnavailable",
        "Redlock",
        "RedlockError",
        "Stale",
    ]
    assert all(hasattr(redlock, name) for name in redlock.__all__)


@pytest.mark.parametrize(
    "path", [path for package in ("redlock", "workers", "tasks") for path in modules(package)], ids=str
)
def test_a_file_says_what_it_is_for_and_is_small(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "it opens with what it is for"
    assert text.count("\n") <= 300, "is there a second concept in it that wants a room of its own?"


@pytest.mark.parametrize("path", sorted((ROOT / "redlock" / "scripts").glob("*.lua")), ids=lambda path: path.stem)
def test_a_script_opens_with_its_keys_and_arguments(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("--")]
    assert any("KEYS" in line for line in head)
