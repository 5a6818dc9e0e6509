"""The shipped package for a simulation, or a variant with replaced text.

Invariants:
1. No module has a model: the simulation runs the shipped modules and the Lua scripts, in a copy of the package of its
   own. The copy imports `virtual.MODULES` instead of Python's modules for time, chance, threads and sockets.
   `Package` sets a few names of the copy: the logger, the process id, the reports of waits and two limits. Each client
   of a schedule gets another `event_log`, which also tells the history.
2. The text of a variant stands in its file exactly once, so a mutant that no longer applies is an error.
"""

from __future__ import annotations

import builtins
import functools
import logging
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redlock
from tests.sim import virtual
from tests.sim.nodes import Lua

_ROOT = Path(redlock.__file__).parent


class Variant(NamedTuple):
    """A replaced piece of text; `file` is a module of redlock or `scripts/<name>.lua`, `old` stands in it once."""

    name: str
    file: str
    old: str
    new: str


@functools.lru_cache(None)
def _compiled(text: str, path: str) -> types.CodeType:
    return compile(text, path, "exec")


class Package:
    """A copy of the package.

    Args:
        texts: The modules with another text, by file.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._modules: dict[str, types.ModuleType] = {}
        self._builtins = vars(builtins) | {"__import__": self._import}
        root = self._modules["redlock"] = types.ModuleType("redlock")
        root.__path__ = [str(_ROOT)]
        # As a program that logs nothing; a schedule may raise the level.
        self.logger = self.module("_log").logger = logging.Logger("redlock", logging.CRITICAL)  # noqa: LOG001 - not that of the process
        self.logger.addHandler(logging.NullHandler())
        if self.module("_transport.exchange").socket is not virtual.MODULES["socket"]:
            raise RuntimeError("this Python ignores the import function of a module, so sockets would be real ones")
        self.module("_process").pid = virtual.process_id
        self._publisher = self.module("_locking.wait_publisher").WaitPublisher
        self._publish = self._publisher.wake

    def report(self, *, everything: bool) -> None:
        """Whether clients log everything and report their waits. That decides nothing and takes half of the time."""
        self.logger.setLevel(logging.DEBUG if everything else logging.CRITICAL)
        # A logger outside logging's tree keeps its answers for the old level.
        self.logger._cache.clear()  # type: ignore[attr-defined]  # not in its stub
        self._publisher.wake = self._publish if everything else _nothing

    def limit_connections(self, sets: int) -> None:
        """Let this many threads use connections at the same time: with a low limit two threads are enough to wait."""
        self.module("_transport.pool")._MOST_SETS = sets

    def limit_tasks(self, places: int) -> None:
        """Let this many tasks of an event loop to the nodes at the same time."""
        self.module("asyncio._driver").Window.__init__.__defaults__ = (places,)

    def module(self, name: str) -> Any:  # noqa: ANN401 - its attributes are those of the module
        """A module by its name below `redlock`."""
        return self._load(f"redlock.{name}")

    def _path(self, name: str) -> Path | None:
        path = _ROOT.joinpath(*name.split(".")[1:])
        return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)

    def _load(self, name: str) -> types.ModuleType:
        known = self._modules.get(name)
        if known is not None:
            return known
        parent, _, child = name.rpartition(".")
        package, path = self._load(parent), self._path(name)
        if name in self._modules:
            # The package imports the module.
            return self._modules[name]
        if path is None:
            raise ModuleNotFoundError(name)
        module = self._modules[name] = types.ModuleType(name)
        is_package = path.name == "__init__.py"
        vars(module).update(__file__=str(path), __builtins__=self._builtins, __package__=name if is_package else parent)
        if is_package:
            module.__path__ = [str(path.parent)]
        text = self._texts.get(str(path.relative_to(_ROOT))) or path.read_text()
        exec(_compiled(text, str(path)), vars(module))  # noqa: S102 - our own source
        setattr(package, child, module)
        return module

    def _import(
        self,
        name: str,
        names: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        wanted: Sequence[str] = (),
        level: int = 0,
    ) -> Any:  # noqa: ANN401 - a module
        if name in virtual.MODULES:
            return virtual.MODULES[name]
        if name.partition(".")[0] != "redlock":
            return builtins.__import__(name, names, local, wanted, level)
        module = self._load(name)
        for one in wanted or ():
            if not hasattr(module, one) and self._path(f"{name}.{one}"):
                self._load(f"{name}.{one}")
        return module if wanted else self._modules["redlock"]


def _nothing(_: object) -> None:
    """Instead of a report."""


def changed_texts(variants: Sequence[Variant]) -> dict[str, str]:
    texts = {variant.file: (_ROOT / variant.file).read_text() for variant in variants}
    for variant in variants:
        if texts[variant.file].count(variant.old) != 1:
            raise ValueError(f"variant {variant.name}: its text is not once in {variant.file}")
        texts[variant.file] = texts[variant.file].replace(variant.old, variant.new)
    return texts


def scripts(texts: Mapping[str, str]) -> dict[str, str]:
    """Those of these texts that are Lua scripts, by the name of the script."""
    return {Path(name).stem: text for name, text in texts.items() if name.endswith(".lua")}


class Source:
    def __init__(self, *variants: Variant) -> None:
        texts = changed_texts(variants)
        self.lua = Lua(scripts(texts))
        self.package = Package({name: text for name, text in texts.items() if name.endswith(".py")})
        self.client: Any = self.package.module("client")
        self.votes: Any = self.package.module("_core.votes")
        self.errors: Any = self.package.module("errors")
        self.lock_events: Any = self.package.module("_locking.lock_events")
