"""The task that ships an order, under the lock that the view takes too."""

import time

from celery import shared_task
from django.conf import settings
from django.db import OperationalError

from orders.models import Order
from redlock import LockLost
from redlock.celery import current_lease, locked
from redlock.fencing.django import fenced


@shared_task(
    bind=True,
    acks_late=True,
    autoretry_for=(LockLost, OperationalError),
    max_retries=20,
    retry_backoff=True,
    retry_backoff_max=10,
)
@locked("order:{order_id}")
def ship(self, order_id):
    """Pack and ship an order unless it was cancelled; returns its state."""
    if Order.objects.get(pk=order_id).state == "open":
        time.sleep(settings.PACKING_SECONDS)
    with fenced(current_lease()):
        order = Order.objects.get(pk=order_id)
        if order.state == "open":
            order.state = "shipped"
            order.save()
    return order.state
