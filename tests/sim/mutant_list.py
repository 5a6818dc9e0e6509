"""A list of mutants of one area; see `mutants`."""

from __future__ import annotations

from tests.sim.source import Variant


class MutantList:
    """The mutants of one area, in the order in which they are added."""

    def __init__(self) -> None:
        self.mutants: dict[str, tuple[Variant, ...]] = {}
        """The replaced pieces of the source, by the name of the mutant."""
        self.named: dict[str, str] = {}
        """The tests that kill mutants that schedules do not kill."""

    def add(self, name: str, file: str, old: str, new: str, test: str = "") -> None:
        """Add a mutant of one piece, with the test that kills it if schedules do not."""
        self.add_pieces(name, (file, old, new))
        if test:
            self.named[name] = test

    def add_pieces(self, name: str, *pieces: tuple[str, str, str]) -> None:
        """Add a mutant of several pieces: for each its file, the text, and the text in its place."""
        self.mutants[name] = tuple(Variant(name, *piece) for piece in pieces)
