"""The tables of the fence, as in `redlock.fencing.sql.create_statements`.

Rows of `Fence` must never be deleted: an old token would pass again. `purge_operations` deletes rows of `Operation`.
"""

from __future__ import annotations

from typing import Any

from django.db import models

from redlock.fencing import _statements as sql


class ExactTextField(models.Field):  # type: ignore[misc]  # Django has no types
    """Text that a database compares byte by byte: no collation folds case, accents or trailing blanks."""

    def db_type(self, connection: Any) -> str:  # noqa: ANN401 - Django has no types
        """The column type on this database."""
        if connection.vendor == "postgresql":
            # Not "varchar": for that word Django adds an index for LIKE, which no query would use.
            return f'character varying({self.max_length}) COLLATE "C"'
        if connection.vendor == "mysql":
            # Not a varchar: even the binary collations ignore blanks at the end.
            return f"varbinary({min(4 * self.max_length, sql.LONGEST_RESOURCE)})"
        return "text"

    def from_db_value(self, value: str | bytes, _expression: object, _connection: object) -> str:
        """The text, also where the column is binary."""
        return value.decode() if isinstance(value, bytes) else value


class Fence(models.Model):  # type: ignore[misc]  # Django has no types
    """The largest fencing token of one resource."""

    resource = ExactTextField(max_length=1024, primary_key=True)
    token = models.BigIntegerField()
    owner = models.CharField(max_length=64)
    section = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        db_table = "redlock_fence"

    def __str__(self) -> str:
        return f"{self.resource} {self.token}"


class Operation(models.Model):  # type: ignore[misc]  # as above
    """An operation that was applied."""

    operation_id = ExactTextField(max_length=255, primary_key=True)
    at = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "redlock_operation"

    def __str__(self) -> str:
        return str(self.operation_id)
