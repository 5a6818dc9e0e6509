"""Files that other users of the machine must not redirect, replace or lock.

Invariants:
1. A temporary file has an unpredictable name beside its target and is created exclusively.
2. In a folder that another user or a group may write, such as /tmp, a file of another user is refused and no link is
   followed. The same holds for links on the way to the file. Windows is left out: there a user's temporary folder is
   private.
3. On Linux no link counts that comes after the check: files are opened in the folder that was checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HAS_USERS = hasattr(os, "geteuid")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40
_CAN_HOLD = sys.platform == "linux"
_PLACE = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0)
"""Opens a link itself, or a folder without the permission to read its names."""


class _Folder(NamedTuple):
    """An open folder. The descriptor is None where the system has no such descriptors."""

    path: Path
    descriptor: int | None

    def place(self, name: str) -> str:
        """The file of this name, for a call with the descriptor as `dir_fd`."""
        return str(self.path / name) if self.descriptor is None else name

    @property
    def status(self) -> os.stat_result:
        """The owner and the permissions."""
        return self.path.stat() if self.descriptor is None else os.fstat(self.descriptor)


def replace(path: str | Path, text: str) -> None:
    """Write a file as a whole: readers see the old text or the new text. A symbolic link at `path` is replaced.

    Raises:
        OSError: The file can't be written, or a link of another user leads to it.
    """
    target = Path(path)
    with _opened(target.parent) as folder:
        name = folder.place(target.name)
        fresh = folder.place(f".{target.name}.{secrets.token_hex(8)}")
        # The permissions are those of any new file: a collector of another user may have to read it.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder.descriptor)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(fresh, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(fresh, dir_fd=folder.descriptor)
            raise


def open_to_append(path: str | Path, *, create_folder: bool = False) -> int:
    """Open a log, which is created if there is none, and return its file descriptor.

    Args:
        path: The log.
        create_folder: Whether to create its folder too, and the folders before that.

    Raises:
        OSError: The file can't be opened. In a folder that other users may write: it is a link, or belongs to another
            user, or a link of another user leads to it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with _opened(Path(path).parent, create=create_folder) as folder:
        name = folder.place(Path(path).name)
        if not _HAS_USERS or not _is_shared(folder):
            return os.open(name, flags, 0o644, dir_fd=folder.descriptor)
        # O_NONBLOCK: a named pipe of another user would hold up the opening.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644, dir_fd=folder.descriptor)
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
    with _opened(Path(path).parent) as folder:
        name = folder.place(Path(path).name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder.descriptor)
        found = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
    if not _HAS_USERS:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "not a folder that only this user can enter (mode 0700)", str(path))


@contextlib.contextmanager
def _opened(folder: Path, *, create: bool = False) -> Iterator[_Folder]:
    """A folder to which no link of another user leads.

    Args:
        folder: Its path.
        create: Whether to create a missing folder, and the folders before.
    """
    path = _without_links(folder) if _HAS_USERS else folder
    if not _CAN_HOLD:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        yield _Folder(path, None)
        return
    first, *rest = path.parts
    at = os.open(first, _PLACE)
    try:
        for name in rest:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=at)
            # A link that has come into the way since the check is no folder.
            inner = os.open(name, _PLACE | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        yield _Folder(path, at)
    finally:
        os.close(at)


def _without_links(folder: Path) -> Path:
    """The path of a folder, which need not exist, without links. No link of another user is followed.

    A link counts if it lies in a folder that others may write, and belongs neither to this user nor to root nor to the
    owner of that folder. Linux has the same rule for links in /tmp, where `fs.protected_symlinks` is on. Behind a
    folder that another user has put into such a place, the owner of a folder counts as another user too.

    Raises:
        OSError: There is such a link.
    """
    here, *rest = Path(Path.cwd(), folder).parts
    at, left, links, trusts_owners = Path(here), rest[::-1], 0, True
    while left:
        step = at / left.pop()
        try:
            found, target = _looked_at(step)
        except FileNotFoundError:
            return Path(step, *left[::-1])
        around = at.stat()
        own = {0, os.geteuid()}
        if trusts_owners:
            own.add(around.st_uid)
        is_theirs = found.st_uid not in own and (not trusts_owners or bool(around.st_mode & _OTHERS_WRITE))
        if target is None:
            at, trusts_owners = step, trusts_owners and not is_theirs
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        if is_theirs:
            raise PermissionError(errno.EPERM, "a link of another user, in a folder that others may write", str(step))
        # A target from the root on replaces the folder before it.
        first, *more = (at / target).parts
        at, left = Path(first), [*left, *more[::-1]]
    return at


def _looked_at(path: Path) -> tuple[os.stat_result, str | None]:
    """The owner and permissions of a file, and the target of a link: both of the same link, however links are moved."""
    if not _CAN_HOLD:
        found = path.lstat()
        return found, str(path.readlink()) if stat.S_ISLNK(found.st_mode) else None
    descriptor = os.open(path, _PLACE)
    try:
        found = os.fstat(descriptor)
        return found, os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(found.st_mode) else None
    finally:
        os.close(descriptor)


def _is_shared(folder: _Folder) -> bool:
    found = folder.status
    # Root can write everywhere. Another owner of the folder can put a link in the way.
    return bool(found.st_mode & _OTHERS_WRITE) or found.st_uid not in {0, os.geteuid()}
