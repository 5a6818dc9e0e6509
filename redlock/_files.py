"""Files that other users of the machine must not redirect, replace or lock.

Invariants:
1. Only a regular file or a link is replaced. A temporary file has an unpredictable name beside its target and is
   created exclusively.
2. In a folder that another user or a group may write, such as /tmp, a file of another user is refused and no link is
   followed. Windows is left out: there a user's temporary folder is private.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

_HAS_USERS = hasattr(os, "geteuid")


def replace(path: str | Path, text: str) -> None:
    """Write a file as a whole: readers see the old text or the new text. A symbolic link at `path` is replaced.

    Raises:
        OSError: The file can't be written, or something else has its name.
    """
    target = Path(path)
    # Root would replace a device such as /dev/null, for the whole machine.
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EEXIST, "a device, a pipe or a socket has this name", str(path))
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    # The permissions are those of any new file: a collector of another user may have to read it.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def open_to_append(path: str | Path) -> int:
    """Open a log, which is created if there is none, and return its file descriptor.

    Raises:
        OSError: The file can't be opened. In a folder that other users may write: it is a link, or belongs to another
            user.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    if not _HAS_USERS or not _is_shared(Path(path).parent):
        return os.open(path, flags, 0o644)
    # O_NONBLOCK: a named pipe of another user would hold up the opening.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    found = os.fstat(descriptor)
    # A second name of the file may be a hard link by which another user redirects the log.
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise PermissionError(
            errno.EPERM, "not a file of this user alone, in a folder that others may write", str(path)
        )
    return descriptor


def private_folder(path: str | Path) -> None:
    """Create a folder that no other user can enter, or accept a folder that is so already.

    Raises:
        OSError: The folder can't be created, or another user can enter the folder.
    """
    with contextlib.suppress(FileExistsError):
        Path(path).mkdir(0o700)
    found = os.lstat(path)
    if not _HAS_USERS:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "not a folder that only this user can enter (mode 0700)", str(path))


def _is_shared(folder: Path) -> bool:
    found = folder.stat()
    # Root can write everywhere. Another owner of the folder can put a link in the way.
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) or found.st_uid not in {0, os.geteuid()}
