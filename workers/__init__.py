"""How the work is run: the Celery app, its settings, its logging, and the local cluster for demo and development."""
