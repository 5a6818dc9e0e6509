"""The tasks of `examples/transfers`, slowed down.

Invariants:
1. `TRANSFERS_KIND` is `transfers`, the module with SQLAlchemy, or `ledger.tasks`, the module with Django.
2. The pauses before and after the fence give the faults a chance to strike there.
3. `TRANSFERS_UNFENCED` takes the fence away, to prove that the check finds transfers that were made twice.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import time
from collections.abc import Iterator
from typing import Any

from celery import Celery

from redlock.fencing.sql import FencedSection

_LONGEST = 0.15


@contextlib.contextmanager
def _slow(*arguments: Any, **options: Any) -> Iterator[FencedSection]:  # noqa: ANN401 - as `fenced`
    time.sleep(random.uniform(0, _LONGEST))
    with _block(*arguments, **options) as section:
        time.sleep(random.uniform(0, _LONGEST))
        yield section


@contextlib.contextmanager
def _unfenced(*arguments: Any, **options: Any) -> Iterator[FencedSection]:  # noqa: ANN401 - as above
    lease = arguments[-1]
    transaction = (
        arguments[0].begin() if len(arguments) > 1 else importlib.import_module("django.db").transaction.atomic()
    )
    with transaction:
        yield FencedSection(lease.names, lease.fence, fresh=bool(options))


module = importlib.import_module(os.environ["TRANSFERS_KIND"])
_block = _unfenced if "TRANSFERS_UNFENCED" in os.environ else module.fenced
module.fenced = _slow  # type: ignore[attr-defined]  # the example looks its name up at each call
app: Celery = module.app
