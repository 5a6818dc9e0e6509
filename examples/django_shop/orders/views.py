"""The view that cancels an order, under the lock that the task takes too."""

from celery import current_app
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from orders.models import Order
from redlock import LockContended, QuorumUnavailable
from redlock.celery import client_for
from redlock.fencing.django import fenced


@csrf_exempt
@require_POST
def cancel(request, order_id):
    """Cancel an order unless it was shipped. A view does not wait, because it would occupy a web worker."""
    try:
        with client_for(current_app).lock(f"order:{order_id}", blocking=False) as lease, fenced(lease):
            order = get_object_or_404(Order, pk=order_id)
            if order.state == "open":
                order.state = "cancelled"
                order.save()
    except LockContended:
        return HttpResponse("the order is being packed", status=409)
    except QuorumUnavailable:
        return HttpResponse("try again later", status=503)
    return HttpResponse(order.state)
