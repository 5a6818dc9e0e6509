"""The documentation site: it builds without a warning, and its menu has every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.shell import run_python
from tests.integration.tools import ROOT
from tests.once import once

pytestmark = pytest.mark.long(ci=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    return once(tmp_path_factory, "site", build) / "html"


def build(place: Path) -> None:
    command = ("-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-c", "docs")
    done = run_python(*command, "-d", str(place / "doctrees"), ".", str(place / "html"), timeout=None)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").exists()
    assert 'href="docs/index.html"' in (site / "index.html").read_text()


def test_the_menu_has_every_page_under_its_kind(site: Path) -> None:
    index = (site / "docs" / "index.html").read_text()
    menu = index.partition('class="sidebar-tree"')[2].partition("</aside>")[0]
    captions = re.findall(r'class="caption-text">([^<]+)<', menu)
    assert captions == ["Tutorial", "How-to guides", "Reference", "Explanation"]
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]:
        if page.stem != "index":
            assert page.with_suffix(".html").name in menu, f"{page} is not linked in docs/index.md"


def test_the_reference_links_names_to_their_descriptions(site: Path) -> None:
    page = (site / "docs" / "reference.html").read_text()
    assert 'id="redlock.Lease.fence"' in page
    assert 'href="#redlock.LockContended"' in page
