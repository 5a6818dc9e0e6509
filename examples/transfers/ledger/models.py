"""The tables of the project."""

from django.db import models


class Account(models.Model):
    """An account, which is never overdrawn."""

    name = models.CharField(max_length=40, primary_key=True)
    balance = models.PositiveIntegerField()

    class Meta:
        """The table."""

        db_table = "account"

    def __str__(self) -> str:
        return f"{self.name}: {self.balance}"


class Transfer(models.Model):
    """A transfer that was made."""

    task = models.CharField(max_length=255, db_index=True)
    source = models.CharField(max_length=40)
    target = models.CharField(max_length=40)
    amount = models.PositiveIntegerField()

    class Meta:
        """The table."""

        db_table = "transfer"

    def __str__(self) -> str:
        return f"{self.amount} from {self.source} to {self.target}"
