"""The documentation site: Sphinx reads the Markdown files where they are, and the reference from the docstrings.

`make docs` builds the site. The source folder is that of the project, so a link works on the site as in the files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer
from sphinx.domains.python import PyXRefRole
from sphinx.util.nodes import make_refnode

import redlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[1]
INDEX = "docs/index"

project = "celery-redlock"
version = release = redlock.__version__
copyright = "the celery-redlock authors, MIT licence"  # noqa: A001 - Sphinx's name for it
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = INDEX
include_patterns = ["*.md", "docs/*.md", "examples/*/README.md"]
exclude_patterns = [".*", "bench-out", "build", "dist", "redlock", "tests"]
# A name in backticks becomes a link if the reference has the name; otherwise it is code, as in Markdown.
default_role = "py:name"

html_theme = "furo"
html_title = f"{project} {release}"
html_extra_path = ["site"]
html_static_path = ["static"]
html_css_files = ["phone.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

# Headings have the same anchors as on a page of a Git server.
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_use_ivar = True


class _NameRole(PyXRefRole):
    """A name in a docstring: that of the same class or module, else the only object of that name."""

    def process_link(
        self,
        env: BuildEnvironment,
        refnode: Element,
        has_explicit_title: bool,  # noqa: FBT001 - as Sphinx has it
        title: str,
        target: str,
    ) -> tuple[str, str]:
        """Treat `.name` as `name`: Sphinx would take any object of that name."""
        del has_explicit_title
        refnode["py:module"], refnode["py:class"] = env.ref_context.get("py:module"), env.ref_context.get("py:class")
        return title, target.lstrip(".")


def _add_the_menu(_app: Sphinx, page: str, source: list[str]) -> None:
    if page == INDEX:
        source[0] += "".join(_menus(source[0]))


def _menus(text: str) -> Iterator[str]:
    """A menu for each section of the index, with the pages that are new in the section."""
    seen: set[str] = set()
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        heading, _, body = section.partition("\n")
        found = dict.fromkeys(re.findall(r"\]\(([^)#:]+)\.md[)#]", body))
        pages = [page for page in found if page not in seen]
        seen.update(pages)
        caption = "" if heading.startswith("# ") else f":caption: {heading}\n"
        yield "\n".join(["", "```{toctree}", f":hidden:\n{caption}", *pages, "```", ""])


def _find(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Element) -> Element | None:
    """Find a name by its last part, whatever its module."""
    if node["refdomain"] != "py":
        return None
    domain = env.get_domain("py")
    last = node["reftarget"].rpartition(".")[2].rstrip("()")
    found = {(page, anchor) for name, _, _, page, anchor, _ in domain.get_objects() if name.rpartition(".")[2] == last}
    if len(found) != 1:
        return None if not found and node["reftarget"].startswith("redlock.") else text
    ((page, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], page, anchor, text, last)


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.add_role_to_domain("py", "name", _NameRole())
    app.add_lexer("conf", TextLexer)
    app.connect("source-read", _add_the_menu)
    app.connect("missing-reference", _find)
