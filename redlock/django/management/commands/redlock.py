"""`manage.py redlock status`: the commands of `redlock` with the settings of the project's Celery app."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand

from redlock.cli.main import main


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Passes its words to `redlock`."""

    help = "Show and manage the locks of the project: status, doctor, release, init. See `redlock --help`."
    requires_system_checks: list[str] = []  # noqa: RUF012 - as Django writes it; the command reports wrong settings itself

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Take all words as they are."""
        parser.add_argument("words", nargs=argparse.REMAINDER, help="a command of `redlock` and its options")

    def handle(self, *_: Any, words: list[str], **_options: Any) -> None:  # noqa: ANN401 - Django's options
        """Run the command, and end with its exit status."""
        status = main(words or ["--help"], current_app)
        if status:
            sys.exit(status)
