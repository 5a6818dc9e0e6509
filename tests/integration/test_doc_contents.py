"""README, the pages on settings and on architecture agree with the code."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # the stubs are a package of their own

from redlock.settings import Settings as LockSettings
from tests.integration.tools import ROOT
from workers.settings import Settings as ExampleSettings

MOST_WORDS = 900
MANY = 50
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

DOCS = [str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")]


def test_the_readme_begins_with_title_and_commands() -> None:
    title, sentences, commands = README.split("\n\n")[:3]
    assert title.startswith("# ")
    assert sentences.count(".\n") + sentences.endswith(".") == 2
    assert [line.split("#")[0].strip() for line in commands.splitlines()] == ["make demo", "make test"]


def test_the_readme_stays_short() -> None:
    assert len(README.split()) < MOST_WORDS


@pytest.mark.parametrize(
    ("settings", "prefix"), [(LockSettings, "REDLOCK_"), (ExampleSettings, "COUNTER_")], ids=["lock", "example"]
)
def test_every_setting_is_documented_and_no_other(settings: type[LockSettings | ExampleSettings], prefix: str) -> None:
    fields = [field for field in dataclasses.fields(settings) if field.metadata.get("is_setting", True)]
    rows = [line for line in SETTINGS.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(rf"`({prefix}\w+)`", row)}
    assert documented - {f"{prefix}FLOWER_AUTH_FILE"} == {prefix + field.name.upper() for field in fields}


@pytest.mark.parametrize(
    ("settings", "prefix"), [(LockSettings, "redlock_"), (ExampleSettings, "COUNTER_")], ids=["lock", "example"]
)
def test_the_documented_defaults_are_right(settings: type[LockSettings | ExampleSettings], prefix: str) -> None:
    numbers = [field for field in dataclasses.fields(settings) if isinstance(field.default, int | float)]
    for field in numbers:
        name = prefix + (field.name if prefix.islower() else field.name.upper())
        (row,) = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{name}`")]
        default = row.split(" | ")[2 if prefix.islower() else 1]
        assert float(default) == field.default, row


def test_the_variables_in_compose_are_documented() -> None:
    """Each variable of the example is set, passed on, passed on to Flower, or without effect in the containers."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    worker, flower = (compose["services"][name]["environment"] for name in ("worker", "flower"))
    forms = dict.fromkeys(flower, "passed on to Flower")
    forms |= {name: "passed on" if value is None else "set" for name, value in worker.items()}
    rows = [line.split(" | ") for line in SETTINGS.splitlines() if line.startswith("| `COUNTER_")]
    table = {name: row[2] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert table == {name: form for name, form in forms.items() if name.startswith("COUNTER_")}
    sentence = SETTINGS.rpartition("Of the lock's variables")[2]
    is_set, _, is_passed = sentence.partition("passes on")
    ours = {name: form for name, form in forms.items() if name.startswith("REDLOCK_")}
    assert set(re.findall(r"`(\w+)`", is_set)) == {name for name, form in ours.items() if form == "set"}
    assert set(re.findall(r"`(\w+)`", is_passed)) == {name for name, form in ours.items() if form == "passed on"}


def test_every_redis_in_compose_has_time_to_load_its_data() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    checks = {
        name: each["healthcheck"] for name, each in services.items() if each.get("entrypoint") == ["redis-server"]
    }
    assert len(checks) == 6
    assert {check.get("start_period") for check in checks.values()} == {"2m"}


def documented_modules() -> set[str]:
    """The paths in the tree of the page: each line is indented below its folder."""
    tree = ARCHITECTURE.partition("## Packages\n\n")[2].partition("\n\n## ")[0]
    folders: dict[int, str] = {}
    found: set[str] = set()
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        folder = "".join(folders[depth] for depth in sorted(folders) if depth < indent)
        names = re.split(r" {2,}", line.strip())[0].split(", ")
        found.update(folder + name for name in names)
        folders = {depth: name for depth, name in folders.items() if depth < indent}
        folders[indent] = names[0].rstrip("/") + "/"
    return found


def modules_of_the_package() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "redlock").rglob("*.py"):
        name = path.relative_to(ROOT)
        if name.stem.startswith("__") or "migrations" in name.parts or name.parent.name in {"django", "flower"}:
            continue
        found.add(str(name.with_suffix("")))
    return found


def test_the_architecture_names_every_module() -> None:
    documented = documented_modules()
    assert modules_of_the_package() - documented == set()


def test_the_architecture_names_no_other_module() -> None:
    for name in documented_modules() - modules_of_the_package():
        path = ROOT / name
        assert path.with_suffix(".lua").exists() or list(path.parent.glob(path.name)), (
            f"docs/architecture.md names {name}"
        )


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(_?\w+/[\w/.]+)`", ARCHITECTURE))))
def test_the_paths_of_the_architecture_exist(name: str) -> None:
    assert (ROOT / "redlock" / name).exists() or Path(ROOT / "redlock" / "_transport" / name).exists(), name


def members_of_classes() -> dict[str, set[str]]:
    """The methods and attributes of each class of the package and the simulator, without those of its bases."""
    members: dict[str, set[str]] = {}
    for path in (*(ROOT / "redlock").rglob("*.py"), *(ROOT / "tests" / "sim").glob("*.py")):
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(one, ast.ClassDef):
                # Classes for threads and for asyncio have the same names.
                found = members.setdefault(one.name, {f"base {ast.unparse(base).split('[')[0]}" for base in one.bases})
                for part in ast.walk(one):
                    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(part.name)
                    elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                        found.add(part.attr)
    return members


def has_member(members: dict[str, set[str]], name: str, member: str) -> bool:
    found = members.get(name, set())
    return member in found or any(has_member(members, base[5:], member) for base in found if base.startswith("base "))


def test_the_architecture_names_only_members_that_exist() -> None:
    members = members_of_classes()
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", ARCHITECTURE)
    assert [f"{name}.{member}" for name, member in named if not has_member(members, name, member)] == []
    assert len(named) > MANY


NAMED_TEST = re.compile(r"\b(?:tests/)?((?:unit|sim|integration|faults|compose|fuzz)/[\w./]+\.py)(?:::(test_\w+))?")


@pytest.mark.parametrize("page", ["SECURITY.md", "README.md", "CONTRIBUTING.md", *sorted(DOCS)])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = NAMED_TEST.findall((ROOT / page).read_text(encoding="utf-8"))
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"{page} names {file}"
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), f"{page} names {file}::{test}"
    assert named or page not in {"SECURITY.md", "docs/safety.md"}
