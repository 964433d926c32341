"""The state directory: where the workers of one machine keep what they share.

A database, sockets and lock files lie in it, so it is the server's user's own, and nobody else may write to
it. It has to be on this machine: SQLite's write-ahead log is shared memory, and Unix sockets and locks
do not work between machines, so what `/proc/self/mountinfo` (proc_pid_mountinfo(5)) calls a network file
system is refused.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from everywire.core.errors import SettingsError

__all__ = ["check_local", "file_system", "state_dir"]

_MOUNTS: Final = Path("/proc/self/mountinfo")

_NETWORK: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "gpfs", "lustre",
        "mvfs", "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf",
        "vmhgfs",
    }
)  # fmt: skip
_NETWORK_FUSE: Final = frozenset(
    {
        "beegfs", "ceph", "ceph-fuse", "cifs", "curlftpfs", "davfs2", "dbxfs", "gcsfuse", "glusterfs",
        "goofys", "juicefs", "mfs", "mount-s3", "rclone", "s3fs", "seaweedfs", "sshfs",
        "vmhgfs-fuse", "weed",
    }
)  # fmt: skip


def state_dir(given: str = "", *, name: str = "", mounts: Path | None = None) -> Path:
    """Return the state directory, made if there is none, only for the server's user (0700).

    It is what was given, else ``$EVERYWIRE_STATE_DIR``, else ``$XDG_RUNTIME_DIR/everywire``, else
    ``everywire-<uid>`` in the directory for temporary files; with a ``name``, the directory of that name in
    it, so that servers of one user with several configurations stay apart. `SettingsError` when it belongs to
    somebody else, when others may write to it, when it lies in what somebody else made in a directory for
    all, when it cannot be made, or on a network file system.
    """
    directory = Path(os.path.abspath(given)) if given else _default()
    for wanted in (directory, directory / name) if name else (directory,):
        _make(wanted)
        check_local(wanted, mounts)
        directory = wanted
    return directory


def _default() -> Path:
    chosen = os.environ.get("EVERYWIRE_STATE_DIR")
    if chosen:
        return Path(os.path.abspath(chosen))
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and _is_own(runtime):
        return Path(runtime) / "everywire"
    return Path(tempfile.gettempdir()) / f"everywire-{os.geteuid()}"


def _is_own(runtime: str) -> bool:
    """Say whether a directory for runtime files is this user's, as it has to be (XDG Base Directory
    Specification): su and sudo may leave another user's in the environment, who could replace all in it."""
    try:
        found = os.stat(runtime)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _check_way(directory: Path) -> None:
    """Refuse a directory on whose way there is what somebody else made in a directory for all: they could
    put another in its place at any time."""
    trusted = {0, os.geteuid()}
    for path in (directory, Path(os.path.realpath(directory))):
        for above in path.parents:
            found = os.lstat(above)
            if found.st_uid not in trusted and os.stat(above.parent).st_mode & stat.S_IWOTH:
                raise SettingsError(
                    f"the state directory {directory} lies in {above}, which another user (uid"
                    f" {found.st_uid}) made in a directory for all; name one of your own"
                )


def _make(directory: Path) -> None:
    try:
        os.makedirs(directory.parent, exist_ok=True)
        _check_way(directory)
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        # Not what a link points to: in a directory for all, somebody else may have made the link.
        found = os.lstat(directory)
    except OSError as error:
        raise SettingsError(f"the state directory {directory} cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise SettingsError(f"the state directory {directory} is no directory")
    if found.st_uid != os.geteuid():
        raise SettingsError(
            f"the state directory {directory} belongs to another user (uid {found.st_uid});"
            " name one of your own"
        )
    if found.st_mode & 0o022:
        raise SettingsError(
            f"others may write to the state directory {directory}; allow it to its owner alone: chmod 700"
        )


def check_local(path: Path, mounts: Path | None = None) -> None:
    """Raise `SettingsError` when a path is on a file system of another machine."""
    kind = file_system(path, mounts)
    if kind in _NETWORK or kind.partition("fuse.")[2] in _NETWORK_FUSE:
        raise SettingsError(
            f"{path} is on a network file system ({kind}), where processes cannot share a database;"
            " name a state directory on this machine, or a broker such as redis:// or nats://"
        )


def file_system(path: Path, mounts: Path | None = None) -> str:
    """Return the type of the file system that a path is on; "" where the system does not tell."""
    try:
        lines = (mounts or _MOUNTS).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    return _kind_at(os.path.realpath(path), lines)


def _kind_at(path: str, lines: Iterable[str]) -> str:
    depth, kind = -1, ""
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        mounted_on = _unescape(fields[4])
        is_above = path == mounted_on or path.startswith(mounted_on.rstrip("/") + "/")
        # Of two mounts on one place the later one hides the earlier.
        if is_above and len(mounted_on) >= depth:
            depth, kind = len(mounted_on), after.split(" ", 1)[0]
    return kind


def _unescape(text: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    for escaped, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escaped, meant)
    return text
