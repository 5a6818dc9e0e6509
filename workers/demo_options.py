"""The options of the demo, checked before anything is started.

Invariants:
1. No number of tasks or processes fills the memory of a usual machine.
2. Flower, broker and lock nodes have different ports. RabbitMQ chooses free ports of its own.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from redlock._masking import quoted
from redlock.testing import redis_server
from workers.cluster import FIRST_PORT, FLOWER_PORT, NODES, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_THINK = 0.005
_LAST_PORT = 65_535
_MOST_TASKS = 1_000_000
_MOST_PROCESSES = 64
"""The most workers, and the most processes in each. A worker takes 60 MB, and each of its processes 15 MB."""
_MOST_IN_ALL = 256


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line. A wrong option ends the process with one line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    processes = options.workers * options.children
    if processes > _MOST_IN_ALL:
        parser.error(f"--workers and --children make {processes} processes; {_MOST_IN_ALL} are the most")
    if options.up:
        options.ports = options.ports or FIRST_PORT
        options.flower_port = options.flower_port or FLOWER_PORT
    ports = _ports(options.ports)
    if options.flower_port in ports:
        parser.error(
            f"Flower's port, {options.flower_port}, is one of those of broker and nodes, {ports[0]} to {ports[-1]}; "
            "choose another with --flower-port"
        )
    return options


def plan(options: argparse.Namespace) -> Plan:
    """The cluster that these options describe."""
    think = options.think
    if think is None and "COUNTER_THINK" not in os.environ:
        think = _THINK
    ports = _ports(options.ports)
    return Plan(
        workers=options.workers,
        children=options.children,
        think=think,
        ports=ports or None,
        flower_port=options.flower_port or _free_port(ports),
        server=f"{options.server}-server" if options.server else "",
        rabbitmq=options.broker == "rabbitmq",
    )


def _ports(first: int | None) -> tuple[int, ...]:
    """The ports of the broker and the lock nodes; none for unix sockets."""
    return tuple(range(first, first + NODES + 1)) if first else ()


def _free_port(others: Sequence[int]) -> int:
    """A free port beside these. Two demos that begin together would both find the usual port free."""
    while (port := redis_server.free_port()) in others:
        pass
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.demo",
        usage="%(prog)s [--up] [options]",
        description="Increment a counter from many processes at once, without the lock and with it.",
    )
    processes = _number(1, _MOST_PROCESSES)
    parser.add_argument("--up", action="store_true", help="start the cluster, leave it running, send nothing")
    parser.add_argument(
        "--tasks", type=_number(1, _MOST_TASKS), default=1000, metavar="N", help="increments with the lock (1000)"
    )
    parser.add_argument("--workers", type=processes, default=2, metavar="N", help="Celery workers (2)")
    parser.add_argument("--children", type=processes, default=4, metavar="N", help="processes in each worker (4)")
    parser.add_argument("--think", type=_seconds, metavar="SECONDS", help="time between read and write (0.005)")
    parser.add_argument(
        "--freeze", action="store_true", help="freeze a worker inside its section for twice the TTL, then continue it"
    )
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis", help="the broker (redis)")
    parser.add_argument(
        "--server", choices=("redis", "valkey"), help="the program of broker, store and nodes (redis if it is there)"
    )
    parser.add_argument(
        "--ports",
        type=_number(1, _LAST_PORT - NODES, "port"),
        metavar="FIRST",
        help="the port of broker and store on 127.0.0.1, before those of the five nodes "
        f"(unix sockets, which only you can reach; with --up {FIRST_PORT})",
    )
    parser.add_argument(
        "--flower-port",
        type=_number(1, _LAST_PORT, "port"),
        metavar="PORT",
        help=f"Flower's port (a free one; with --up {FLOWER_PORT})",
    )
    return parser


def _number(least: int, most: int, what: str = "whole number") -> Callable[[str], int]:
    """A reader of whole numbers in these limits, for argparse."""

    def read(text: str) -> int:
        # Python refuses to read a number of more than 4,300 digits.
        if not text.isdecimal() or len(text.lstrip("0")) > len(str(most)) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not a {what} from {least} to {most}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10:  # noqa: PLR2004 - beyond that the demo shows nothing but waiting
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number of seconds from 0 to 10")
    return seconds
