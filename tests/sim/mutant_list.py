"""A list of mutants of one area; see `mutants`."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from tests.sim.source import Variant

Piece: TypeAlias = tuple[str, str, str]
"""A file, a text in that file, and the text in its place."""


class MutantList:
    """The mutants of one area, in the order in which they are added."""

    def __init__(self) -> None:
        self.mutants: dict[str, tuple[Variant, ...]] = {}
        """The replaced pieces of the source, by the name of the mutant."""
        self.named: dict[str, str] = {}
        """The tests that kill mutants that schedules do not kill."""

    def files(self, *names: str) -> list[File]:
        return [File(self, name) for name in names]

    def add(self, name: str, *pieces: Piece, test: str = "") -> None:
        """Add a mutant of several pieces, with the test that kills it if schedules do not."""
        self.mutants[name] = tuple(Variant(name, *piece) for piece in pieces)
        if test:
            self.named[name] = test


class File(NamedTuple):
    """A file of the shipped source. A call adds a mutant of one piece of the file."""

    mutants: MutantList
    name: str

    def __call__(self, name: str, old: str, new: str, test: str = "") -> None:
        self.mutants.add(name, self.piece(old, new), test=test)

    def without(self, name: str, statement: str, test: str = "") -> None:
        """Add a mutant that lacks a statement of one line."""
        self(name, f" {statement}\n", " pass\n", test)

    def piece(self, old: str, new: str) -> Piece:
        """A piece of a mutant of several pieces."""
        return self.name, old, new
