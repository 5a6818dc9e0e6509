"""The conformance kit finds each broken fence where the database shows the fault; the other cells have a reason."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from redlock.fencing.conformance import INTERLEAVINGS, check
from tests.integration import broken_fences as broken
from tests.integration.databases import MYSQL

PATIENCE = 0.1
GROWING_PATIENCE = (0.5, 5.0, 20.0)
"""For an interleaving that must find the fault: a slow step counts as a step that waits, and hides the fault."""
PLACES = (
    ("postgresql", "READ COMMITTED"),
    ("postgresql", "REPEATABLE READ"),
    ("mariadb", "READ COMMITTED"),
    ("mariadb", "REPEATABLE READ"),
    ("sqlite", ""),
)
SHORT = {("postgresql", "READ COMMITTED"), ("sqlite", "")}
"""The places of the short runs, beside the cells with a reason."""
LOST, LATER, STALE = "one update is lost", "was committed after the larger token", "passed with a stale token"
REFUSED, ERROR = "had to pass and did not", "neither Stale nor retryable"
CONFLICT = "right here: PostgreSQL ends it with 40001 if another holder has committed since its first statement"
FRESH = "right here: each statement reads fresh, so the reads after the fence are newer than the fence"
ROW_LOCK = "right here: the lock on the row is enough, as the reads after the lock are fresh"
TABLE: list[tuple[type[broken.Broken], str, tuple[str, str, str, str, str]]] = [
    (broken.ChecksOnly, LOST, ("I1", CONFLICT, "I1", "I1", "I1")),
    (broken.FencesAtTheEnd, LOST, ("I1", CONFLICT, "I1", "I1", "I1")),
    (broken.RefusesEqual, REFUSED, ("I3", "I3", "I3", "I3", "I3")),
    (broken.IgnoresTheVerdict, LATER, ("I5", "I5", "I5", "I5", "I5")),
    (broken.OtherConnection, LOST, ("I1", "I1", "I1", "I1", "I1")),
    (broken.RolledBackSavepoint, STALE, ("I5", "I5", "I5", "I5", "I5")),
    (
        broken.SelectForUpdate,
        ERROR,
        (
            "I9",
            "I9",
            "I9",
            "right here: both holders lock the gap, so the second INSERT is a deadlock, which may be repeated",
            "impossible here: SQLite has no FOR UPDATE, and refuses the statement as a syntax error",
        ),
    ),
    (broken.LeavesEqualAlone, LOST, (ROW_LOCK, "I3", ROW_LOCK, ROW_LOCK, "I3")),
    (broken.LowersTheToken, LATER, ("I5", "I5", "I5", "I5", "I5")),
    (broken.LooksFirst, LOST, ("I10", CONFLICT, "I10", "I10", "I10")),
    (
        broken.LooksByAPlainSelect,
        LOST,
        (FRESH, CONFLICT, FRESH, "I1", "right here: the driver sends the SELECT outside of the transaction"),
    ),
    (broken.TakesErrorsForAPass, LOST, ("I1", "I1", "I1", "I1", "I1")),
    (
        broken.OneStatement,
        LOST,
        ("I1", CONFLICT, "I1", "I1", "right here: the statement locks the file before it reads"),
    ),
    (broken.FoldsNames, REFUSED, ("I8", "I8", "I8", "I8", "I8")),
]
"""Each fence, the words of the complaint, and per place the interleaving that finds it, or the reason why none can."""
HARMLESS_ON_MYSQL = (broken.TakesErrorsForAPass, broken.OneStatement)
"""A wait lasts a second at least on MySQL, and no interleaving gives an old value to the read in one statement."""
CELLS = [
    pytest.param(
        kind,
        words,
        found,
        *place,
        id=f"{kind.__name__}-{'-'.join(place).strip('-')}",
        marks=[] if place in SHORT or found not in INTERLEAVINGS else [pytest.mark.long(ci=True)],
    )
    for kind, words, cells in TABLE
    for found, place in zip(cells, PLACES, strict=True)
    if not (MYSQL and kind in HARMLESS_ON_MYSQL and place[0] == "mariadb")
]
FINDERS = {kind: sorted({cell for cell in cells if cell in INTERLEAVINGS}) for kind, _, cells in TABLE}


@pytest.mark.parametrize(("kind", "words", "found", "database", "level"), CELLS, indirect=["database"])
def test_the_kit_finds_a_broken_fence(kind: type[broken.Broken], words: str, found: str, leveled: Engine) -> None:
    adapter = kind(leveled)
    if found in INTERLEAVINGS:
        with pytest.raises(AssertionError, match=words) as caught:
            for patience in GROWING_PATIENCE:
                check(adapter, INTERLEAVINGS[found], patience=patience)
        assert INTERLEAVINGS[found].why in str(caught.value)
        assert "read" in str(caught.value)
    elif found.startswith("impossible"):
        with pytest.raises(AssertionError, match="syntax error"):
            check(adapter, INTERLEAVINGS["I9"], patience=PATIENCE)
    else:
        for name in FINDERS[kind]:
            check(adapter, INTERLEAVINGS[name], patience=PATIENCE)
