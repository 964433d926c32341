"""Brokers by their addresses: which class, what is refused, and that nothing secret is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from everywire import Everywire
from everywire.brokers.memory import MemoryBroker
from everywire.brokers.opening import describe, open_broker, place_address
from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.settings import SettingsTable


def opened(url: str, **more: object):
    return open_broker(url, Limits(), SettingsTable(), **more)  # type: ignore[arg-type]


def test_memory_is_this_process() -> None:
    broker = opened("memory:", budget=Budget(1), node="abc")
    assert isinstance(broker, MemoryBroker) and broker.node == "abc"
    assert opened("memory:").node != opened("MEMORY://").node


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "6379",
        "postgres://h/x",
        "memory:x",
        "redis:",
        "nats://",
        "redis://:secret@/0",
        "nats://[",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        opened(url)
    assert "secret" not in refused.value.sentence and "expected" in refused.value.sentence


@pytest.mark.parametrize(
    ("url", "library"),
    [("redis://localhost", "redis"), ("rediss://u:p@h/0", "redis"), ("nats://h:4222", "nats")],
)
def test_a_library_that_is_not_installed_is_named_with_what_brings_it(
    url: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden:
        """Finds that a library is not installed."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == library or name.startswith(f"{library}."):
                raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    ours = f"everywire.brokers.{library}"
    for name in [name for name in sys.modules if name == library or name.startswith((f"{library}.", ours))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(SettingsError, match=rf"pip install 'everywire\[{library}\]'"):
        opened(url)


def test_an_application_takes_an_address_for_a_broker(tmp_path: Path) -> None:
    assert isinstance(Everywire().broker, MemoryBroker)
    assert Everywire("memory:", node="abc").broker.node == "abc"
    wire = Everywire(f"sqlite://{tmp_path}", node="n1", limits=Limits(max_stored_keys=7))
    assert isinstance(wire.broker, SqliteBroker) and wire.broker.node == "n1"
    with pytest.raises(SettingsError, match="expected a broker's address"):
        Everywire("localhost:6379")


def test_a_log_may_say_where_but_not_with_what_password() -> None:
    assert describe("redis://user:secret@db.internal:6379/2?password=secret") == "redis://db.internal:6379/2"
    assert describe("sqlite:///var/lib/everywire") == "sqlite:///var/lib/everywire"
    assert describe("sqlite:") == "sqlite:"
    assert describe("nats://a:1,b:2") == "nats://a:1,b:2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:", "sqlite:///state/a%20b"),
        ("sqlite://", "sqlite:///state/a%20b"),
        ("sqlite:?synchronous=full", "sqlite:///state/a%20b?synchronous=full"),
        ("sqlite:///elsewhere", "sqlite:///elsewhere"),
        ("redis://localhost", "redis://localhost"),
        ("memory:", "memory:"),
    ],
)
def test_a_file_without_a_path_goes_to_the_state_directory_that_was_set(url: str, expected: str) -> None:
    assert place_address(url, "/state/a b") == expected
    assert place_address(url, "") == url


async def test_a_server_keeps_its_file_in_the_state_directory_that_was_set(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    async with Everywire("sqlite:", state_dir=str(chosen)).lifespan():
        assert (chosen / "everywire.sqlite3").is_file()
