"""The database servers of the tests do not disturb each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.databases import has_mariadb, mariadb


@pytest.mark.long(ci=True)
@pytest.mark.skipif(not has_mariadb(), reason="no MariaDB server")
def test_a_starting_server_leaves_the_tables_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "#sql-temptable-1-1-1.MAI"
    table.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with mariadb():
        assert table.exists()
