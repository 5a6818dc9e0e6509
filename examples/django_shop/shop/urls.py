"""The addresses of the project."""

from django.urls import path
from orders.views import cancel

urlpatterns = [path("orders/<int:order_id>/cancel", cancel)]
