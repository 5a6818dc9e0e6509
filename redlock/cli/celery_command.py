"""`celery -A your.app redlock ...`: the command line of this package with the settings of a Celery app.

Celery loads this module at each start of its command line, before the import of any task. So `celery inspect locks`
is known even where Django finds the tasks later.
"""

from __future__ import annotations

import sys

import click

from _redlock_command import main
from redlock.celery import task_registry  # noqa: F401 - it registers `inspect locks`


@click.command(
    name="redlock",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def redlock(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Examine this app's lock nodes and locks: redlock status, doctor, release ..."""
    sys.exit(main(arguments, context.obj.app))
