"""The lock's settings from the command line: options, then a Celery app or the environment, then the defaults."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from redlock._escaping import escape
from redlock._masking import mask_input
from redlock.errors import ConfigurationError
from redlock.settings import ENVIRONMENT, Settings, read

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Parser", "broker_from", "database_from", "given", "open_streams", "settings_from"]


class Parser(argparse.ArgumentParser):
    """A parser whose errors show no password and no control character, because an error repeats the typed text."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end the process."""
        super().error(mask_input(escape(message)))


def open_streams() -> None:
    """Replace each standard stream that the caller has closed: a connection to a node would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def settings_from(options: argparse.Namespace, *names: str) -> Settings:
    """Return the lock's settings. The command line has options for the settings in `names`."""
    values = given(options, *names)
    if options.app is None:
        return read(Settings, os.environ, ENVIRONMENT, options=values)
    app = _app(options)
    settings: Settings = _conf().of_conf(app.conf)
    return read(Settings, {}, ENVIRONMENT, settings, values)


def _conf() -> ModuleType:
    # Only here: the other commands work without Celery.
    try:
        from redlock.celery import conf  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name != "celery":
            raise
        raise ConfigurationError("an app needs Celery: pip install 'celery-redlock[celery]'") from None
    return conf


def _app(options: argparse.Namespace) -> Any:  # noqa: ANN401 - Celery is untyped
    """Return the Celery app of the command line, imported once."""
    if isinstance(options.app, str):
        options.app = _conf().find_app(options.app)
    return options.app


def broker_from(options: argparse.Namespace) -> str:
    """Return the address of Celery's broker, the first of several."""
    urls = options.broker or (options.app and _app(options).conf.broker_url) or os.environ.get("CELERY_BROKER_URL", "")
    if not isinstance(urls, str | list | tuple):
        raise ConfigurationError(f"the app's broker_url is {type(urls).__name__}; it must be text, or a list of texts")
    return (urls if isinstance(urls, str) else str(urls[0])).partition(";")[0]


def database_from(options: argparse.Namespace) -> str:
    """Return the address of the database, from `--database` or, if the option has no address, from the environment."""
    if options.database is None:
        return ""
    url: str = options.database or os.environ.get("DATABASE_URL", "")
    if not url:
        raise ConfigurationError("--database needs an address, or an address in the variable DATABASE_URL")
    return url


def given(options: argparse.Namespace, *names: str) -> dict[str, object]:
    """Return the options that are set on the command line."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}
