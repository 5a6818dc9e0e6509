"""The fenced blocks of a page of documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SETS_UP = re.compile(r"(\$ )?(make|pip|docker|docker-compose) ")
"""Blocks that install packages or start containers have their own tests."""


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str
    mark: str
    line: int

    @property
    def in_the_background(self) -> bool:
        return self.mark == "in the background"

    @property
    def name(self) -> str:
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found else f"line_{self.line}.py"

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("not run: ") and not SETS_UP.match(self.text)


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["kind"], found["text"], found["mark"] or "", text.count("\n", 0, found.start("kind")) + 1)
        for found in FENCE.finditer(text)
    ]
