"""Files that the project writes are safe from other users: links, locks and files that lie in the way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from concurrent_log_handler import ConcurrentRotatingFileHandler

from redlock import ConfigurationError, _files
from redlock.celery.heartbeat import HeartbeatStep
from tests.integration.shell import run_python
from tests.integration.tools import ROOT, new_server
from tests.integration.warm_start import ForkedProgram
from workers import log_figures, logs
from workers.logs import WholeLines

NOBODY = 65_534
pytestmark = pytest.mark.timeout(300)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")

ONE_LINE = """
import logging, sys
from pathlib import Path
from workers import log_figures, logs
logs.configure(sys.argv[1], 1000)
for number in range(100):
    logging.getLogger("writer").info("line %d", number)
"""


@pytest.fixture(params=[0o1777, 0o2775], ids=["all", "group"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that every user may write, as /tmp, or the users of its group, as /var/log on some systems."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(request.param)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that must not change."""
    path = tmp_path / "victim"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


def test_a_heartbeat_follows_no_link_beside_its_target(shared: Path, victim: Path) -> None:
    (shared / ".heartbeat.new").symlink_to(victim)
    (shared / ".lock.prom.new").symlink_to(victim)
    app = Celery("files")
    app.conf.redlock_heartbeat_file = str(shared / "heartbeat")
    app.conf.redlock_metrics_file = str(shared / "lock.prom")
    HeartbeatStep(SimpleNamespace(app=app, hostname="w@h")).beat()
    assert (shared / "heartbeat").is_file()
    assert (shared / "lock.prom").is_file()


def test_a_link_at_the_target_is_replaced_and_not_followed(shared: Path, victim: Path) -> None:
    (shared / "heartbeat").symlink_to(victim)
    _files.replace(shared / "heartbeat", "new")
    assert not (shared / "heartbeat").is_symlink()
    assert [path.name for path in shared.iterdir()] == ["heartbeat"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(shared: Path) -> None:
    (shared / "heartbeat").mkdir()
    with pytest.raises(IsADirectoryError):
        _files.replace(shared / "heartbeat", "new")
    assert [path.name for path in shared.iterdir()] == ["heartbeat"]


@pytest.mark.parametrize("mode", [stat.S_IFIFO, pytest.param(stat.S_IFCHR, marks=as_root)], ids=["pipe", "device"])
@pytest.mark.parametrize("is_link", [False, True], ids=["itself", "link"])
def test_a_device_is_not_replaced(tmp_path: Path, mode: int, is_link: bool) -> None:
    """Root could replace /dev/null for the whole machine."""
    place, name = tmp_path / "node", tmp_path / ("link" if is_link else "node")
    try:
        os.mknod(place, mode | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no right to make a device")
    if is_link:
        name.symlink_to(place)
    app = Celery("files")
    app.conf.redlock_heartbeat_file = str(name)
    HeartbeatStep(SimpleNamespace(app=app, hostname="w@h")).beat()
    with pytest.raises(FileExistsError):
        _files.replace(name, "new")
    assert stat.S_IFMT(name.stat().st_mode) == mode
    assert len(list(tmp_path.iterdir())) == 1 + is_link


def test_a_log_follows_no_link_in_a_shared_folder(shared: Path, victim: Path, tmp_path: Path) -> None:
    (shared / "log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        _files.open_to_append(shared / "log")
    (tmp_path / "own").symlink_to(tmp_path / "target")
    os.close(_files.open_to_append(tmp_path / "own"))
    assert (tmp_path / "target").exists(), "a link in a folder of one's own is meant"


@as_root
def test_a_log_of_another_user_is_refused_in_a_shared_folder(shared: Path) -> None:
    (shared / "log").touch()
    os.chown(shared / "log", NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="not a file of this user alone"):
        _files.open_to_append(shared / "log")


@as_root
def test_a_log_follows_no_link_in_the_folder_of_another_user(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(0o755)
    (folder / "log").symlink_to(victim)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(OSError, match="symbolic link"):
        _files.open_to_append(folder / "log")


def test_a_log_with_a_second_name_is_refused_in_a_shared_folder(shared: Path, victim: Path) -> None:
    os.link(victim, shared / "log")
    with pytest.raises(PermissionError, match="not a file of this user alone"):
        _files.open_to_append(shared / "log")


def test_a_pipe_in_a_shared_folder_holds_up_no_log(shared: Path) -> None:
    os.mkfifo(shared / "log")
    with pytest.raises(OSError):  # noqa: PT011 - Linux says ENXIO, others accept the pipe and the check refuses it
        _files.open_to_append(shared / "log")


DEVICES = ("/dev/null", "/dev/full", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@pytest.mark.parametrize("name", [*DEVICES, "pipe", "socket", "link"])
def test_a_log_that_is_no_regular_file_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotation would replace it, and a pipe without a reader would wait for ever."""
    # The path of a unix socket is short.
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    log = tmp_path / name
    if log.parent != tmp_path and not log.exists():
        pytest.skip("this system has no such device")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        before = set(log.parent.iterdir())
        with pytest.raises(OSError, match="a log is rotated, so it must be a regular file"):
            logs.prepare(log)
        assert not log.with_name(f".{log.name}.lock").exists()
        assert log.parent != tmp_path or set(log.parent.iterdir()) == before


def test_a_lock_held_in_the_temporary_folder_stops_no_log(shared: Path, tmp_path: Path) -> None:
    log = tmp_path / "logger.log"
    with (shared / ".__logger.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run_python("-c", ONE_LINE, str(log), env=os.environ | {"TMPDIR": str(shared)}, check=True)
    assert "line 99" in log.read_text()
    assert len(list(tmp_path.glob("logger.log*"))) > 1, "it was rotated too"


@as_root
def test_a_log_that_cannot_rotate_does_not_fill_the_disk() -> None:
    """In a folder with the sticky bit no user can remove the file of another user, here at the name of an old log."""
    as_nobody = f"import os; import workers.logs; os.setgroups([]); os.setuid({NOBODY})\n{ONE_LINE}"
    # Not below the folder of pytest, which no other user can enter.
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name)
        shared.chmod(0o1777)
        (shared / "logger.log.1").touch()
        os.chown(shared / "logger.log.1", NOBODY - 1, NOBODY - 1)
        run_python("-c", as_nobody, str(shared / "logger.log"), check=True)
        assert sorted(path.name for path in shared.iterdir()) == [".logger.log.lock", "logger.log", "logger.log.1"]
        assert "line 99" in (shared / "logger.log").read_text()


CLOSED = """
import logging, os, socket, sys
ends = socket.socketpair()
assert sys.stderr is None and 2 in [end.fileno() for end in ends]
from workers import log_figures, logs
logs.configure(sys.argv[1], 1000)
logging.getLogger("redlock").warning("a line")
for end in ends:
    end.setblocking(False)
    try:
        sys.exit(f"a connection got {end.recv(1000)!r}")
    except BlockingIOError:
        pass
"""


def test_no_log_line_goes_to_a_connection(tmp_path: Path) -> None:
    """Where the caller has closed stderr, as with `2>&-`, a connection gets its number."""
    log = tmp_path / "logger.log"
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", CLOSED, str(log)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=250)
    assert "a line" in log.read_text()


def refused(log: Path) -> int:
    """The number of refusals in a log, all of whose lines count."""
    figures = log_figures.read(str(log), "", (), since=0)
    return figures.refused if figures else 0


def test_a_pipe_beside_a_log_holds_up_no_report(shared: Path) -> None:
    os.mkfifo(shared / "logger.log.1")
    (shared / "logger.log.2").mkdir()
    (shared / "logger.log").write_text("")
    assert refused(shared / "logger.log") == 0


def test_a_file_of_another_user_keeps_no_full_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others may write, their files and folders may get such names during a rotation."""
    log = tmp_path / "logger.log"

    def rotate(_handler: WholeLines) -> None:
        for number in range(20):
            (tmp_path / f"logger.log.rotate.{number}").mkdir()
        log.rename(tmp_path / "logger.log.rotate.full")
        raise PermissionError

    monkeypatch.setattr(ConcurrentRotatingFileHandler, "doRollover", rotate)
    handler = WholeLines(str(log), lock_file_directory=str(logs.prepare(log)))
    with contextlib.closing(handler), pytest.raises(PermissionError):
        handler.doRollover()
    assert not (tmp_path / "logger.log.rotate.full").exists()


@as_root
def test_a_report_reads_no_lines_of_another_user(shared: Path, tmp_path: Path) -> None:
    line = "12:00 INFO redlock: STALE resource=a token=7 \n"
    (shared / "logger.log").write_text(line)
    (shared / "logger.log.1").write_text(line)
    (shared / "logger.log.2").write_text(line)
    os.chown(shared / "logger.log.2", NOBODY, NOBODY)
    (shared / "logger.log.3").symlink_to("logger.log")
    assert refused(shared / "logger.log") == 2
    (tmp_path / "logger.log").symlink_to(shared / "logger.log")
    assert refused(tmp_path / "logger.log") == 1, "the user's own link"


def test_no_other_user_can_open_the_lock_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "logger.log"
    run_python("-c", ONE_LINE, str(log), check=True)
    assert list((tmp_path / ".logger.log.lock").iterdir())
    assert (tmp_path / ".logger.log.lock").stat().st_mode & 0o077 == 0


def test_a_lock_folder_that_others_can_enter_is_one_line(shared: Path, tmp_path: Path) -> None:
    (shared / ".logger.log.lock").mkdir(0o755)
    output, errors = tmp_path / "output", tmp_path / "errors"
    worker = ForkedProgram(
        "celery",
        ["-A", "workers.app", "worker", "--pool", "solo"],
        environment=os.environ | {"COUNTER_LOG_FILE": str(shared / "logger.log"), "TMPDIR": str(tmp_path)},
        folder=ROOT,
        output=output,
        errors=errors,
    )
    assert worker.wait(250) == 1
    assert "not a folder that only this user can enter" in errors.read_text()
    assert "Traceback" not in errors.read_text()


def test_a_socket_with_too_long_a_path_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(ConfigurationError, match=r"too long for a unix socket.*TMPDIR"), new_server():
        pass
