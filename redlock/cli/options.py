"""The lock's settings from the command line: options, then a Celery app or the environment, then the defaults."""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn

from redlock._masking import mask
from redlock.celery import conf
from redlock.settings import ENVIRONMENT, Settings, read


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which repeat what was typed, hold no password."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and end."""
        super().error(mask(message))


def settings_from(options: argparse.Namespace, *names: str) -> Settings:
    """The lock's settings, of which these may be given on the command line."""
    said = given(options, *names)
    if options.app is None:
        return read(Settings, os.environ, ENVIRONMENT, options=said)
    return read(Settings, {}, ENVIRONMENT, conf.of_conf(_app(options).conf), said)


def _app(options: argparse.Namespace) -> Any:  # noqa: ANN401 - Celery is untyped
    """The Celery app that was named, imported once."""
    if isinstance(options.app, str):
        options.app = conf.find_app(options.app)
    return options.app


def broker_from(options: argparse.Namespace) -> str:
    """The address of Celery's broker; the first of several."""
    urls = options.broker or (options.app and _app(options).conf.broker_url) or os.environ.get("CELERY_BROKER_URL", "")
    return (urls if isinstance(urls, str) else urls[0]).partition(";")[0]


def given(options: argparse.Namespace, *names: str) -> dict[str, object]:
    """What was given on the command line."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}
