"""The table of the orders."""

from django.db import models


class Order(models.Model):
    """An order."""

    state = models.CharField(max_length=10, default="open")  # then shipped or cancelled

    def __str__(self):
        return f"order {self.pk}, {self.state}"
