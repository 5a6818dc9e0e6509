"""The shipped source for a simulation, or a variant with replaced text.

Invariants:
1. No module has a model: the simulation runs the shipped modules of `_MODULES` and the Lua scripts.
2. The text of a variant stands in its file exactly once, so a mutant that no longer applies is an error.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import redlock
from redlock._core.commands import Wait
from tests.sim.nodes import Lua

_ROOT = Path(redlock.__file__).parent
_MODULES = {
    "votes": "_core.votes",
    "vote_tally": "_core.vote_tally",
    "codec": "_transport.codec",
    "backoff": "_core.backoff",
    "protocol": "_core.protocol",
}


class Variant(NamedTuple):
    """One replaced piece of text; `file` is a module of redlock or `scripts/<name>.lua`, `old` stands in it once."""

    name: str
    file: str
    old: str
    new: str


class Source:
    """Protocol, waiting rules and scripts."""

    def __init__(self, *variants: Variant) -> None:
        texts = {variant.file: (_ROOT / variant.file).read_text() for variant in variants}
        for variant in variants:
            if texts[variant.file].count(variant.old) != 1:
                raise ValueError(f"variant {variant.name}: its text is not once in {variant.file}")
            texts[variant.file] = texts[variant.file].replace(variant.old, variant.new)
        self.lua = Lua({Path(name).stem: text for name, text in texts.items() if name.endswith(".lua")})
        modules = self._modules({name: text for name, text in texts.items() if name.endswith(".py")})
        self.protocol: Any = modules["protocol"]
        self.backoff: Any = modules["backoff"]
        self.votes: Any = modules["votes"]
        self.vote_tally: Any = modules["vote_tally"]
        self.codec: Any = modules["codec"]
        self.wait_all = Wait.ALL

    @staticmethod
    def _modules(texts: dict[str, str]) -> dict[str, Any]:
        if not texts:
            return {name: importlib.import_module(f"redlock.{dotted}") for name, dotted in _MODULES.items()}
        kept = {f"redlock.{dotted}": sys.modules.get(f"redlock.{dotted}") for dotted in _MODULES.values()}
        try:
            for dotted in _MODULES.values():
                file = f"{dotted.replace('.', '/')}.py"
                module = types.ModuleType(f"redlock.{dotted}")
                module.__file__ = str(_ROOT / file)
                sys.modules[f"redlock.{dotted}"] = module
                text = texts.get(file) or (_ROOT / file).read_text()
                exec(compile(text, module.__file__, "exec"), module.__dict__)  # noqa: S102 - our own source
            return {name: sys.modules[f"redlock.{dotted}"] for name, dotted in _MODULES.items()}
        finally:
            for full, module_before in kept.items():
                if module_before is not None:
                    sys.modules[full] = module_before
