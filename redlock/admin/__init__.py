"""For operators: node probes, cluster status, the doctor, bootstrap and forced release."""

from redlock import _installation  # noqa: F401 - the check
