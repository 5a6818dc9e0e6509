"""The versions of the libraries, for tests that differ between them.

Each use names the version that must be the oldest supported version before the use can be deleted.
"""

from __future__ import annotations

import celery
import kombu
import pytest

CELERY = tuple(int(part) for part in celery.__version__.split(".")[:2])
KOMBU = tuple(int(part) for part in kombu.__version__.split(".")[:2])

needs_celery_5_5 = pytest.mark.skipif(CELERY < (5, 5), reason="needs Celery 5.5")
needs_celery_5_6 = pytest.mark.skipif(CELERY < (5, 6), reason="needs Celery 5.6")
needs_celery_5_7 = pytest.mark.skipif(CELERY < (5, 7), reason="needs Celery 5.7")
