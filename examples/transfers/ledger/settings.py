"""The settings of the project: `celery -A ledger.tasks worker` finds them by `DJANGO_SETTINGS_MODULE`."""

import os

SECRET_KEY = os.environ.get("TRANSFERS_SECRET_KEY", "only for this example")
INSTALLED_APPS = ["ledger", "redlock.fencing.django"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("PGDATABASE", "postgres"),  # PGHOST, PGUSER and PGPASSWORD hold for Django too
        # About the TTL of the lock: then PostgreSQL ends the transaction of a frozen worker.
        "OPTIONS": {"options": f"-c idle_in_transaction_session_timeout={os.environ.get('TRANSFERS_IDLE_MS', '5000')}"},
    }
}
