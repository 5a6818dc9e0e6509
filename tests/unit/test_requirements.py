"""The files in requirements/: exact versions with hashes for everything that pyproject.toml names, and no index."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = [f"3.{minor}" for minor in range(10, 15)]


def locked(group: str) -> list[tuple[Requirement, int]]:
    """The pins of a file, with the number of hashes of each."""
    text = (ROOT / "requirements" / f"{group}.txt").read_text()
    lines = re.sub(r"#.*", "", text).replace("\\\n", " ").splitlines()
    split = [line.split("--hash=sha256:") for line in lines if line.strip()]
    return [(Requirement(first.strip()), len(hashes)) for first, *hashes in split]


def named(group: str) -> Iterator[Requirement]:
    """The requirements of a dependency group, with its included groups and the package itself."""
    yield from map(Requirement, PROJECT["project"]["dependencies"])
    for entry in PROJECT["dependency-groups"][group]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from named(entry["include-group"])


@pytest.mark.parametrize("group", ["dev", "demo", "example", "setup"])
def test_each_package_is_pinned_with_hashes(group: str) -> None:
    for requirement, hashes in locked(group):
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("group", ["dev", "demo", "example", "setup"])
def test_the_lock_has_what_the_group_asks_for(group: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    pinned: dict[str, str] = {}
    for requirement, _ in locked(group):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in pinned, f"{name} is pinned twice"
            pinned[name] = str(requirement.specifier).removeprefix("==")
    for asked in named(group):
        if asked.marker is None or asked.marker.evaluate(environment):
            version = pinned.get(canonicalize_name(asked.name))
            assert version, f"{asked} is not in requirements/{group}.txt: run `make lock`"
            assert asked.specifier.contains(version), f"{asked} is pinned to {version}: run `make lock`"


@pytest.mark.parametrize("group", ["demo", "setup"])
def test_a_small_group_has_the_versions_that_the_tests_have(group: str) -> None:
    few, all_ = ({f"{package.name}{package.specifier}" for package, _ in locked(name)} for name in (group, "dev"))
    assert few <= all_


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_a_lock_names_no_package_index(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", path.read_text())
