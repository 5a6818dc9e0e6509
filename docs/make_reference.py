"""Makes docs/reference.md from the docstrings: `python docs/make_reference.py`.

Rules of this file: it reads the source and imports nothing of it, so what it writes depends on the text alone; what
is listed is in `PAGES`, in this order; a test compares its result with the file.
"""

from __future__ import annotations

import ast
import itertools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reference.md"
_WIDTH = 100

PAGES: list[tuple[str, str, str, list[str]]] = [
    ("For Celery tasks", "redlock.celery", "redlock/celery/decorator.py", ["locked", "current_lease"]),
    ("", "", "redlock/celery/client.py", ["client_for"]),
    ("The lock", "redlock", "redlock/client.py", ["Redlock"]),
    ("", "", "redlock/holder.py", ["LockHolder"]),
    ("", "", "redlock/lock.py", ["Lock"]),
    ("", "", "redlock/lease.py", ["Lease"]),
    ("", "", "redlock/_core/protocol.py", ["Outcome"]),
    ("The lock for asyncio", "redlock.asyncio", "redlock/asyncio/client.py", ["Redlock"]),
    ("", "", "redlock/asyncio/lock.py", ["Lock"]),
    ("", "", "redlock/asyncio/lease.py", ["Lease"]),
    (
        "The fenced store",
        "redlock.fencing",
        "redlock/fencing/redis_store.py",
        ["FencedStore", "FencedTransaction", "Written"],
    ),
    ("", "", "redlock/fencing/asyncio_redis_store.py", ["AsyncFencedStore"]),
    (
        "Errors",
        "redlock",
        "redlock/errors.py",
        ["RedlockError", "ConfigurationError", "LockContended", "QuorumUnavailable", "NotHeld", "LockLost", "Stale"],
    ),
    (
        "Fixtures for pytest",
        "",
        "pytest_redlock.py",
        ["redlock_nodes", "redlock_client", "redlock_async_client", "redlock_prefix"],
    ),
    ("Nodes for tests", "redlock.testing", "redlock/testing/nodes.py", ["lock_nodes", "LockNodes", "LockNode"]),
    (
        "Servers on this machine",
        "redlock.testing.redis_server",
        "redlock/testing/redis_server.py",
        ["cluster", "Cluster", "Server"],
    ),
]
"""Each page: its title, where its names are imported from, the file, and the names."""

INTERNAL_NAMES = {
    "check",
    "is_block",
    "is_left",
    "live_entries",
    "observe_fence",
    "renewing",
    "report_loss",
    "scope",
    "stop_watch",
    "task",
}
"""What is public because another module of the package calls it, and is nobody else's business."""

INTERNAL_BASES = {
    "LeaseSteps": "redlock/_locking/lease_steps.py",
    "WatchedLease": "redlock/asyncio/_lease_watch.py",
}
"""Classes that only divide another class between two files, each with its file. Their members belong to that class."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function


def reference() -> str:
    """The whole page."""
    lines = [
        "# Reference",
        "",
        "<!-- Made from the docstrings by docs/make_reference.py; change those, not this. -->",
        "",
        "Times are seconds as `float`, but for names that end in `_ms`, which are whole milliseconds.",
        "The meaning of each error and log event for operators is in [operations.md](operations.md),",
        "the settings are in [settings.md](settings.md).",
        "",
    ]
    for title, where, path, names in PAGES:
        if title:
            lines += [f"## {title}", ""]
        if where:
            lines += [f"`from {where} import ...`", ""]
        found = {node.name: node for node in _parsed(path).body if isinstance(node, Definition)}
        for name in names:
            lines += _described(found[name])
    return "\n".join(lines).rstrip() + "\n"


def _parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def _described(node: Definition) -> Iterator[str]:
    """A function or a class, and what is public in the class."""
    yield from (f"### {node.name}", "")
    text = ast.get_docstring(node) or ""
    if isinstance(node, Function):
        if not _is(node, "fixture"):
            yield from _signature(node, node.name)
        yield from _prose(text)
        return
    members = list(_members(node).values())
    bases = [base for base in map(ast.unparse, node.bases) if base not in INTERNAL_BASES]
    if bases:
        yield from (f"*A kind of `{'`, `'.join(bases)}`.*", "")
    for member in members:
        if member.name == "__init__" and "Args:" in text:
            yield from _signature(member, node.name)
    yield from _prose(text)
    for name, what in _attributes(node, members):
        yield from (f"#### {node.name}.{name}", "", what, "")
    for member in members:
        if not member.name.startswith("_") and member.name not in INTERNAL_NAMES:
            yield from (f"#### {node.name}.{member.name}", "")
            if not _is(member, "property"):
                yield from _signature(member, member.name)
            yield from _prose(ast.get_docstring(member) or "")


def inherits(path: str, name: str) -> bool:
    """Whether a part of this class is in one of `INTERNAL_BASES`."""
    found = {node.name: node for node in _parsed(path).body if isinstance(node, ast.ClassDef)}
    return name in found and bool(INTERNAL_BASES.keys() & {ast.unparse(base) for base in found[name].bases})


def _bases(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """The internal bases of a class, the first ancestor first."""
    for name in map(ast.unparse, node.bases):
        for base in _parsed(INTERNAL_BASES[name]).body if name in INTERNAL_BASES else ():
            if isinstance(base, ast.ClassDef) and base.name == name:
                yield from (*_bases(base), base)


def _members(node: ast.ClassDef) -> dict[str, Function]:
    """The functions of a class and of its internal bases; a function of the class replaces an inherited function."""
    classes = [*_bases(node), node]
    return {one.name: one for kind in classes for one in kind.body if isinstance(one, Function)}


def _attributes(node: ast.ClassDef, members: list[Function]) -> Iterator[tuple[str, str]]:
    """`NAME = ...` in the class and `self.name = ...` in the constructor, with a docstring below it."""
    inherited = [statement for base in _bases(node) for statement in base.body]
    body = (
        inherited
        + node.body
        + [statement for member in members if member.name == "__init__" for statement in member.body]
    )
    for before, after in itertools.pairwise(body):
        match before, after:
            case ast.Assign(targets=[ast.Attribute(attr=name) | ast.Name(id=name)]), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                if not name.startswith("_") and name not in INTERNAL_NAMES:
                    yield name, text


def _is(node: Function, decorator: str) -> bool:
    return any(ast.unparse(one).rpartition(".")[2] == decorator for one in node.decorator_list)


def _signature(node: Function, name: str) -> Iterator[str]:
    """How it is called, on one line or with a line for each argument."""
    gives = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    arguments = [*_arguments(node.args)]
    name = f"await {name}" if isinstance(node, ast.AsyncFunctionDef) else name
    line = f"{name}({', '.join(arguments)}){gives}"
    yield "```text"
    if len(line) <= _WIDTH:
        yield line
    else:
        yield from (f"{name}(", *(f"    {argument}," for argument in arguments), f"){gives}")
    yield from ("```", "")


def _arguments(found: ast.arguments) -> Iterator[str]:
    optional = [None] * (len(found.args) - len(found.defaults)) + found.defaults
    for argument, default in zip(found.args, optional, strict=True):
        if argument.arg != "self":
            yield _argument(argument, default)
    if found.kwonlyargs:
        yield "*"
    for argument, default in zip(found.kwonlyargs, found.kw_defaults, strict=True):
        yield _argument(argument, default)


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")


def _prose(text: str) -> Iterator[str]:
    """A docstring in Markdown: `Args:` and its like become lists."""
    for part in text.split("\n\n"):
        head, *rest = part.splitlines()
        if head in {"Args:", "Attributes:", "Raises:", "Returns:"}:
            yield from (f"*{head.removesuffix(':')}*", "")
            for item in _items(textwrap.dedent("\n".join(rest)).splitlines()):
                name, colon, what = item.partition(": ")
                yield f"- `{name}`: {what}" if colon and " " not in name else f"- {item}"
        elif head == "Example:":
            yield from ("*Example*", "", "```pycon", *textwrap.dedent("\n".join(rest)).splitlines(), "```")
        else:
            yield part
        yield ""


def _items(lines: list[str]) -> Iterator[str]:
    item = ""
    for line in lines:
        if item and not line.startswith(" "):
            yield item
            item = ""
        item = f"{item} {line.strip()}".strip()
    yield item


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
