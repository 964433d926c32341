"""The state directory: where it is, whose it is, and where it must not be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from everywire.brokers.state import file_system, state_dir
from everywire.core.errors import SettingsError


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def mountinfo(tmp_path: Path, *rows: tuple[str, str]) -> Path:
    """Write a list of mounts: where, and of which type."""
    lines = [
        f"{30 + number} 1 0:{number} / {where} rw,relatime shared:1 - {kind} source rw"
        for number, (where, kind) in enumerate(rows)
    ]
    path = tmp_path / "mountinfo"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERYWIRE_STATE_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_what_is_given_counts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYWIRE_STATE_DIR", str(tmp_path / "environment"))
    assert state_dir(str(tmp_path / "a" / "given")) == tmp_path / "a" / "given"
    assert mode(tmp_path / "a" / "given") == 0o700
    assert state_dir() == tmp_path / "environment"
    monkeypatch.delenv("EVERYWIRE_STATE_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state_dir() == tmp_path / "everywire"
    assert mode(tmp_path / "everywire") == 0o700


def test_without_any_it_is_a_directory_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    assert state_dir() == tmp_path / f"everywire-{os.geteuid()}"


def test_configurations_have_directories_of_their_own(tmp_path: Path) -> None:
    one = state_dir(str(tmp_path), name="one")
    assert one == tmp_path / "one"
    assert mode(one) == 0o700
    assert state_dir(str(tmp_path), name="one") == one


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(SettingsError, match="others may write"):
        state_dir(str(tmp_path))
    assert mode(tmp_path) == 0o770, "what somebody else set up is not changed"
    tmp_path.chmod(0o755)
    assert state_dir(str(tmp_path)) == tmp_path


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(SettingsError, match="another user"):
        state_dir(str(tmp_path))


@pytest.mark.parametrize("is_link", [False, True])
def test_a_directory_in_what_somebody_else_made_for_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    public = tmp_path / "tmp"
    public.mkdir()
    public.chmod(0o1777)
    (tmp_path / "real").mkdir()
    if is_link:
        (public / "app").symlink_to(tmp_path / "real")
    else:
        (public / "app").mkdir()
    if os.geteuid():
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    else:
        os.chown(public / "app", 12_345, 12_345, follow_symlinks=False)
    with pytest.raises(SettingsError, match="in a directory for all"):
        state_dir(str(public / "app" / "state"))
    assert not (public / "app" / "state").exists()


def test_a_runtime_directory_of_another_user_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(theirs))
    if os.geteuid():
        monkeypatch.setattr("everywire.brokers.state._is_own", lambda runtime: False)
    else:
        os.chown(theirs, 12_345, 12_345)
    assert state_dir() == tmp_path / f"everywire-{os.geteuid()}"


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(SettingsError, match="no directory"):
            state_dir(str(tmp_path / name))
    with pytest.raises(SettingsError, match="cannot be made"):
        state_dir(str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph"])
def test_network_file_systems_are_refused(tmp_path: Path, kind: str) -> None:
    mounts = mountinfo(tmp_path, ("/", "ext4"), (str(tmp_path), kind))
    with pytest.raises(SettingsError, match="network file system"):
        state_dir(str(tmp_path / "state"), mounts=mounts)


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "overlay", "fuse.gocryptfs", "zfs"])
def test_file_systems_of_this_machine_are_taken(tmp_path: Path, kind: str) -> None:
    mounts = mountinfo(tmp_path, ("/", "nfs"), (str(tmp_path), kind), (str(tmp_path) + "er", "nfs"))
    assert state_dir(str(tmp_path / "state"), mounts=mounts)


def test_the_deepest_and_the_last_mount_counts(tmp_path: Path) -> None:
    mounts = mountinfo(
        tmp_path,
        ("/", "ext4"),
        ("/a\\040b", "nfs"),
        ("/a\\040b", "xfs"),
        ("/a\\040b/c", "cifs"),
        ("/a", "9p"),
    )
    assert file_system(Path("/a b"), mounts) == "xfs"
    assert file_system(Path("/a b/d"), mounts) == "xfs"
    assert file_system(Path("/a b/c/d"), mounts) == "cifs"
    assert file_system(Path("/ab"), mounts) == "ext4"
    assert file_system(Path("/a/x"), mounts) == "9p"


def test_where_the_system_does_not_tell_it_is_let_be(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("not a line of mountinfo\n")
    assert file_system(tmp_path, tmp_path / "absent") == ""
    assert file_system(tmp_path, tmp_path / "odd") == ""
    assert state_dir(str(tmp_path / "state"), mounts=tmp_path / "absent")
