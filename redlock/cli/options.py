"""The lock's settings from the command line: options, then a Celery app or the environment, then the defaults."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from redlock.errors import ConfigurationError
from redlock.settings import ENVIRONMENT, Settings, read

if TYPE_CHECKING:
    import argparse
    from types import ModuleType


def settings_from(options: argparse.Namespace) -> Settings:
    """Return the lock's settings."""
    values = given(options, Settings)
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
        options.app = _conf().find_app(text_of(options, "app"))
    return options.app


def broker_from(options: argparse.Namespace) -> str:
    """Return the address of Celery's broker; several have semicolons between them, as Celery writes them."""
    app = _app(options) if options.app is not None else None
    urls = text_of(options, "broker") or (app and app.conf.broker_url) or os.environ.get("CELERY_BROKER_URL", "")
    if isinstance(urls, str):
        return urls
    if not isinstance(urls, list | tuple):
        raise ConfigurationError(f"the app's broker_url is {type(urls).__name__}; it must be text, or a list of texts")
    for url in urls:
        if not isinstance(url, str):
            raise ConfigurationError(f"the app's broker_url has {type(url).__name__} in its list; it must be text")
    return ";".join(urls)


def database_from(options: argparse.Namespace) -> str:
    """Return the address of the database, from `--database` or, if the option has no address, from the environment."""
    if options.database is not True:
        return text_of(options, "database")
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        raise ConfigurationError("--database needs an address, or an address in the variable DATABASE_URL")
    return url


def text_of(options: argparse.Namespace, name: str) -> str:
    """Return an option, or an empty text without the option. An empty option may come from a variable without value."""
    value: str | None = getattr(options, name)
    if value == "":
        raise ConfigurationError(f"--{name} is empty; give it a value, or leave it out")
    return value or ""


def given(options: argparse.Namespace, kind: type) -> dict[str, object]:
    """Return the options of the command line that have the name of a field of this dataclass."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}
