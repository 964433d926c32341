"""Who runs a process, by command lines and by what it shares with its parent."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import SettingsError
from everywire.embedding.manager import _workers_of, find_manager, server_of, started_at
from everywire.embedding.place import _without_addresses, take_place

COMMANDS = {
    "uvicorn app:app": "uvicorn",
    "/venv/bin/python /venv/bin/uvicorn app:app --workers 4": "uvicorn",
    "python3.13 -X dev -W error -m uvicorn app:app": "uvicorn",
    "/lib/python/uvicorn/__main__.py app:app": "uvicorn",
    "gunicorn: master [app:app]": "gunicorn",
    "/usr/bin/python3 -m hypercorn -w 3 app:app": "hypercorn",
    "fastapi run --workers 2": "fastapi",
    "python manage.py runserver": "",
    "vim uvicorn": "",
    "python -m pytest -n 2": "",
    "": "",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_is_known_by_its_command_line(command: str) -> None:
    words = [command] if ": " in command else command.split()
    assert server_of(words) == COMMANDS[command]


@pytest.mark.parametrize(
    ("command", "environ", "workers"),
    [
        ("uvicorn app:app --workers 4", "", 4),
        ("uvicorn app:app --workers=4", "", 4),
        ("gunicorn -w 3 app:app", "", 3),
        ("gunicorn -w3 app:app", "8", 3),
        ("uvicorn app:app", "2", 2),
        ("uvicorn app:app", "", 0),
        ("uvicorn app:app --workers many", "", 0),
        ("uvicorn app:app --workers", "", 0),
        ("watch -w 4 ls", "8", 0),
    ],
)
def test_how_many_were_asked_for(command: str, environ: str, workers: int) -> None:
    assert _workers_of(command.split(), environ) == workers


def test_where_a_server_listens_makes_no_other_application() -> None:
    one = ["uvicorn", "app:app", "--port", "8001", "--host=0.0.0.0", "--ws", "auto"]
    assert _without_addresses(one) == ["uvicorn", "app:app", "--ws", "auto"]


def test_a_process_is_one_of_a_kind() -> None:
    assert started_at(os.getpid()) == started_at(os.getpid()) > 0
    assert started_at(2**22 + 1) == 0


def found_by_child(*, listens: bool, inherits: bool, multi: bool = False) -> bool:
    """Say whether a child of this process finds that it is managed."""
    code = "from everywire.embedding.manager import find_manager; print(find_manager())"
    if multi:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(find_manager) is not None
    with socket.socket() as sock:
        if listens:
            sock.bind(("127.0.0.1", 0))
        fds = (sock.fileno(),) if inherits else ()
        done = subprocess.run(
            [sys.executable, "-c", code], pass_fds=fds, capture_output=True, text=True, timeout=60, check=True
        )
    found = done.stdout.strip()
    mine = f"Manager(pid={os.getpid()}, started={started_at(os.getpid())}"
    assert found == "None" or found.startswith(mine)
    return found != "None"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seen in /proc")
def test_a_child_is_managed_when_it_listens_where_its_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    assert found_by_child(listens=True, inherits=True)
    assert not found_by_child(listens=True, inherits=False)
    assert not found_by_child(listens=False, inherits=True)


def test_a_child_of_multiprocessing_is_managed() -> None:
    assert found_by_child(listens=False, inherits=False, multi=True)


# -- places -------------------------------------------------------------------------------


@pytest.fixture
def _managed(monkeypatch: pytest.MonkeyPatch) -> None:
    from everywire.embedding import place
    from everywire.embedding.manager import Manager

    manager = Manager(os.getppid(), started_at(os.getppid()), 0)
    monkeypatch.setattr(place, "find_manager", lambda: manager)
    monkeypatch.setattr(place, "_WAIT_S", 0.2)


@pytest.mark.usefixtures("_managed")
async def test_servers_of_one_process_have_places_of_their_own(tmp_path: Path) -> None:
    state = str(tmp_path / "a b?")  # what a URL would take for something else
    one = await take_place(None, state)
    two = await take_place(None, state)
    assert one.url.startswith("sqlite:///") and one.url != two.url
    one.leave()
    again = await take_place(None, state)
    assert again.url == one.url
    again.leave()
    two.leave()


@pytest.mark.usefixtures("_managed")
async def test_a_memory_broker_has_its_place_until_it_leaves(tmp_path: Path) -> None:
    held = await take_place(MemoryBroker(), str(tmp_path))
    assert held.url == ""
    from everywire.embedding import place

    place._taken.clear()  # as in another process
    with pytest.raises(SettingsError, match="several processes"):
        await take_place(MemoryBroker(), str(tmp_path))
    held.leave()
    (await take_place(MemoryBroker(), str(tmp_path))).leave()


@pytest.mark.usefixtures("_managed")
async def test_what_is_left_behind_is_removed_when_nobody_uses_it(tmp_path: Path) -> None:
    import fcntl

    dead = tmp_path / "embedded-4194305-77-0"
    used = tmp_path / "embedded-4194305-78-0"
    other = tmp_path / "embedded-by-somebody"
    for directory in (dead, used, other):
        directory.mkdir()
        (directory / "file").touch()
    (tmp_path / "embedded-4194305-79-0.lock").touch()
    with (used / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        place = await take_place(None, str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == sorted([used.name, other.name, Path(place.url).name])
        place.leave()
