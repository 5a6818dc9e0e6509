"""The settings of the project: Django's, Celery's and the lock's, the last two under the namespace CELERY."""

import os
from pathlib import Path

REDIS = os.environ.get("SHOP_REDIS", "redis://127.0.0.1:6379")
NODES = "redis://127.0.0.1:63791,redis://127.0.0.1:63792,redis://127.0.0.1:63793,redis://127.0.0.1:63794,redis://127.0.0.1:63795"

CELERY_BROKER_URL = f"{REDIS}/0"
CELERY_RESULT_BACKEND = f"{REDIS}/1"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_REDLOCK_NODES = os.environ.get("SHOP_NODES", NODES).split(",")
CELERY_REDLOCK_TTL = 5

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only for this example")
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["orders", "redlock.django", "redlock.fencing.django"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).parents[1] / "shop.sqlite3",
        "OPTIONS": {"timeout": 20},
    }
}

PACKING_SECONDS = float(os.environ.get("SHOP_PACKING_SECONDS", "1"))
"""The time that an order takes to pack."""
