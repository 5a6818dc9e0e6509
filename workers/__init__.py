"""The Celery app of the example, its settings, its logging, and the local cluster for demo and development."""
