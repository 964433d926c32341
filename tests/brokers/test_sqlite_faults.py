"""The sqlite broker's file in trouble: removed, replaced, damaged, full, locked; and a machine that died."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from everywire.brokers.base import Appended
from everywire.brokers.sqlite import schema, writer
from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.core.errors import BrokerBusy, BrokerError, SettingsError
from everywire.core.limits import Limits
from everywire.core.position import Position
from everywire.core.publication import Draft
from everywire.hub.recovery import Start
from everywire.testing.broker_driving import Call, RecordingSink, append, heads, publish, read
from tests.brokers.sqlite_nodes import TABLE, live_node, sqlite_broker, until

QUICK = Limits(canary_interval_s=0.1, canary_timeout_s=0.5, broker_timeout_s=0.5)


async def try_publish(broker: SqliteBroker, channel: str = "a") -> Appended | BrokerError:
    (result,) = await append(broker, Draft(channel, b"1"))
    assert isinstance(result, Appended | BrokerError)
    return result


async def publish_again(broker: SqliteBroker) -> Appended:
    """Publish until it works."""
    async with asyncio.timeout(30):
        while not isinstance(result := await try_publish(broker), Appended):
            await asyncio.sleep(0.01)
    return result


def modes(directory: Path) -> dict[str, int]:
    return {str(file): stat.S_IMODE(file.lstat().st_mode) for file in directory.rglob("*")}


def copy_of(path: Path) -> Path:
    """Copy a database as a backup would."""
    copy = path.with_name("copy")
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    return copy


# -- the file --------------------------------------------------------------------------


async def test_files_are_only_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    path.touch(0o644)
    async with sqlite_broker(path) as broker:
        await publish(broker, "a")
        found = modes(tmp_path)
        assert not [file for file, mode in found.items() if mode & 0o077]
        # The database with its log and index, two files of turns, the mark, the socket in its directory.
        assert len(found) == 8


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path) as broker:
        first = await publish(broker, "a", b"1", key="k", fingerprint=b"f")
        await broker.store.put("key", b"value", 100)
        await broker.leases.put("group", "member", b"value", 100)
    assert not path.with_name("e.sqlite3-wal").exists(), "the last one out leaves nothing behind"
    async with sqlite_broker(path) as broker:
        assert await publish(broker, "a", b"1", key="k", fingerprint=b"f") == first._replace(replayed=True)
        assert (await publish(broker, "a", b"2")) == (first.epoch, 2, False)
        assert await broker.store.take("key") == b"value"
        assert await broker.leases.members("group") == {"member": b"value"}


async def test_a_file_that_is_removed_under_way_begins_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as one, live_node(path) as other:
        reader = await other.subscribe("a")
        first = await publish(one.broker, "a", b"1")
        await publish(one.broker, "a", b"2")
        await until(lambda: reader.data() == [b"1", b"2"])
        path.unlink()
        again = await publish(one.broker, "a", b"3")
        assert again.epoch != first.epoch
        assert again.offset == 1
        await until(lambda: reader.data()[2:] == [b"3"])
        assert [gap.reason for gap in reader.gaps()] == ["reset"]
        assert (await publish(other.broker, "a", b"4")) == (again.epoch, 2, False)
        await until(lambda: reader.data()[3:] == [b"4"])


async def test_a_directory_that_is_swept_away_is_made_anew(tmp_path: Path) -> None:
    """As by what tidies up directories for temporary files."""
    path = tmp_path / "state" / "e.sqlite3"
    path.parent.mkdir(0o700)
    async with live_node(path, limits=QUICK) as one, live_node(path, limits=QUICK) as other:
        reader = await other.subscribe("a")
        first = await publish(one.broker, "a", b"1")
        await until(lambda: reader.data() == [b"1"])
        shutil.rmtree(path.parent)
        again = await publish_again(one.broker)
        assert again.epoch != first.epoch
        await until(lambda: len(reader.data()) > 1)
        assert [gap.reason for gap in reader.gaps()] == ["reset"]
        await until(lambda: one.broker._bus.nodes() and other.broker._bus.nodes())
        await until(lambda: one.broker.health().ready and other.broker.health().ready)
        assert modes(tmp_path)[str(path.parent)] == 0o700


async def test_an_older_copy_put_in_place_under_way_gets_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as one, live_node(path) as other:
        reader = await other.subscribe("a")
        first = await publish(one.broker, "a", b"kept")
        copy = copy_of(path)
        await publish(one.broker, "a", b"lost")
        await publish(other.broker, "a", b"lost too")
        await until(lambda: len(reader.data()) == 3)
        copy.rename(path)
        again = await publish(one.broker, "a", b"new")
        assert (again.offset, again.epoch == first.epoch) == (2, False), "an offset is used twice"
        await until(lambda: reader.data()[-1] == b"new")
        assert [gap.reason for gap in reader.gaps()] == ["reset"]
        assert (await publish(other.broker, "a")).epoch == again.epoch, "one of two won"
        assert [one.data for one in (await read(one.broker, "a")).publications][:2] == [b"kept", b"new"]
        checked = sqlite3.connect(path)
        assert checked.execute("pragma integrity_check").fetchone() == ("ok",)
        checked.close()


async def test_an_older_copy_put_in_place_meanwhile_gets_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as node:
        reader = await node.subscribe("a")
        first = await publish(node.broker, "a", b"kept")
        copy = copy_of(path)
        await publish(node.broker, "a", b"lost")
        await until(lambda: len(reader.data()) == 2)
        position = reader.position
    copy.rename(path)
    async with live_node(path) as node:
        assert (await publish(node.broker, "a", b"new")).epoch != first.epoch
        reader = await node.subscribe("a", start=Start(Position.decode(position)))
        await until(lambda: reader.data() == [b"kept", b"new"])
        assert [gap.reason for gap in reader.gaps()] == ["reset"]


async def test_only_an_idle_node_sees_the_older_copy_and_puts_it_right(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as node:
        reader = await node.subscribe("a")
        await publish(node.broker, "a", b"kept")
        copy = copy_of(path)
        await publish(node.broker, "a", b"lost")
        await until(lambda: len(reader.data()) == 2)
        copy.rename(path)
        await until(lambda: reader.gaps())  # nobody publishes: the comparison of heads finds it
        assert [gap.reason for gap in reader.gaps()] == ["reset"]


async def test_a_damaged_file_is_an_error_until_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    path.write_bytes(b"this is no database" * 1_000)
    async with sqlite_broker(path, limits=QUICK) as broker:
        assert not broker.health().ready
        assert broker.health().detail == "the file of the log store is damaged"
        assert isinstance(await try_publish(broker), BrokerError)
        with pytest.raises(BrokerError):
            await broker.store.get("key")
        path.unlink()
        await publish_again(broker)
        await until(lambda: broker.health().ready)


async def test_a_file_damaged_under_way_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path, limits=QUICK) as broker:
        for _ in range(100):
            await publish(broker, "a", bytes(1_000))
        with sqlite3.connect(path) as other:
            other.execute("pragma wal_checkpoint(truncate)")
        other.close()
        with path.open("r+b") as file:
            file.write(b"\xff" * 200_000)
        async with asyncio.timeout(30):
            while isinstance(await try_publish(broker, "b"), Appended):
                await asyncio.sleep(0.01)
        await until(lambda: not broker.health().ready)
        path.unlink()
        await publish_again(broker)


async def test_a_full_disk_is_an_error_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.sqlite3"
    opened: list[sqlite3.Connection] = []

    def open_small(*args: object, **more: object) -> sqlite3.Connection:
        opened.append(schema.open_database(*args, **more))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(writer, "open_database", open_small)
    async with sqlite_broker(path, limits=QUICK) as broker:
        first = await publish(broker, "a")

        def set_room(pages: int) -> object:
            return broker._writer.thread.ask(
                lambda _: opened[0].execute(f"pragma max_page_count = {pages}").fetchone()
            )

        await set_room(1)  # it cannot be less than there is
        results = [(await append(broker, Draft("a", bytes(50_000))))[0] for _ in range(5)]
        assert isinstance(results[-1], BrokerError)
        assert results[-1].sentence == "the disk of the log store is full"
        await set_room(100_000)
        again = await publish_again(broker)
        done = sum(isinstance(one, Appended) for one in results)
        assert again == (first.epoch, 2 + done, False), "what failed left a hole"
        assert len(opened) == 1
        await until(lambda: broker.health().ready)


async def test_a_locked_file_is_an_error_in_time_and_works_again(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path, limits=QUICK) as broker:
        first = await publish(broker, "a")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        assert isinstance(await try_publish(broker), BrokerError)
        await until(lambda: not broker.health().ready)
        assert (await read(broker, "a")).head.last == 1, "readers do not wait for writers"
        other.execute("rollback")
        other.close()
        again = await publish_again(broker)
        assert again.epoch == first.epoch
        await until(lambda: broker.health().ready)
        log = (await read(broker, "a")).publications
        assert [one.offset for one in log] == list(range(1, len(log) + 1))


async def test_what_was_given_up_before_its_turn_is_never_appended(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path, limits=QUICK) as broker:
        await publish(broker, "a")
        stopped = writer.Turns(path)
        stopped.take()
        call = Call()
        broker.log.append([Draft("a", b"late")], call)
        (result,) = await call.result()
        assert isinstance(result, BrokerError)
        stopped.leave()
        stopped.close()
        await publish_again(broker)
        assert b"late" not in [one.data for one in (await read(broker, "a")).publications]
        assert broker.statistics()["timed_out"] > 0


async def test_unfinished_appends_are_bounded(tmp_path: Path) -> None:
    limits = Limits(max_unfinished_appends=10, max_publishing_bytes=1_000)
    async with sqlite_broker(tmp_path / "e.sqlite3", limits=limits) as broker:
        calls = [Call() for _ in range(50)]
        for call in calls:
            broker.log.append([Draft("a", b"1")], call)
        results = [(await call.result())[0] for call in calls]
        busy = [one for one in results if isinstance(one, BrokerBusy)]
        assert len(busy) >= 20
        assert [one.offset for one in results if isinstance(one, Appended)] == list(range(1, 51 - len(busy)))
        large = [Call() for _ in range(3)]
        for call in large:
            broker.log.append([Draft("b", bytes(900))], call)
        assert [type((await call.result())[0]) for call in large] == [Appended, BrokerBusy, BrokerBusy]


async def test_one_that_cannot_be_done_takes_no_other_along(tmp_path: Path) -> None:
    async with sqlite_broker(tmp_path / "e.sqlite3") as broker:
        appending = [Call() for _ in range(10)]
        for number, call in enumerate(appending):
            broker.log.append([Draft("a", b"%d" % number)], call)
            if number == 5:
                bad = asyncio.ensure_future(broker.store.put("\ud800", b"", 10))
                reading = asyncio.ensure_future(broker.store.get("\ud800"))
                await asyncio.sleep(0)
        assert [(await call.result())[0].offset for call in appending] == list(range(1, 11))
        for failing in (bad, reading):
            with pytest.raises(BrokerError):
                await failing
        assert (await heads(broker, "a"))["a"].last == 10


# -- the machine -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("synchronous", "was_closed", "is_kept"),
    [("normal", False, False), ("normal", True, True), ("full", False, True)],
)
async def test_after_the_machine_died_the_epoch_is_new_where_commits_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str, was_closed: bool, is_kept: bool
) -> None:
    path, later = tmp_path / "e.sqlite3", tmp_path / "later" / "e.sqlite3"
    later.parent.mkdir(0o700)
    async with sqlite_broker(path, synchronous=synchronous) as broker:
        first = await publish(broker, "a")
        if not was_closed:
            for name in ("", "-wal"):
                shutil.copy(f"{path}{name}", f"{later}{name}")
    if was_closed:
        shutil.copy(path, later)
    monkeypatch.setattr(schema, "_boot", lambda: "another start")
    async with sqlite_broker(later, synchronous=synchronous) as broker:
        again = await publish(broker, "a")
        assert again.offset == 2
        assert (again.epoch == first.epoch) is is_kept


async def test_a_socket_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    sink = RecordingSink()
    async with sqlite_broker(path, limits=QUICK, sink=sink) as one, sqlite_broker(path, limits=QUICK) as two:
        one.log.watch("a")
        await heads(one, "a")
        shutil.rmtree(tmp_path / "e.sqlite3-nodes")
        await until(lambda: one.statistics()["reconnects"] and two.statistics()["reconnects"])
        await until(lambda: one.health().ready and two.health().ready)

        async def is_heard() -> bool:
            last = (await publish(two, "a")).offset
            await asyncio.sleep(0.05)
            return sink.last("a") >= last

        async with asyncio.timeout(30):
            while not await is_heard():
                pass
        await two.control.broadcast("topic", b"payload")
        await until(lambda: ("topic", b"payload", two.node) in sink.broadcasts)


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 1 0:1 / / rw - ext4 x rw\n31 30 0:2 / {tmp_path} rw - nfs4 host:/x rw\n")
    monkeypatch.setattr("everywire.brokers.state._MOUNTS", mounts)
    broker = SqliteBroker(tmp_path / "e.sqlite3", QUICK, TABLE)
    with pytest.raises(SettingsError, match="network file system"):
        await broker.start(RecordingSink())
    assert not (tmp_path / "e.sqlite3").exists()


async def test_the_write_ahead_log_stays_small_when_a_reader_has_stayed_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MAX_WAL_BYTES", 500_000)
    monkeypatch.setattr(writer, "_WAL_CHECK_S", 0.05)
    monkeypatch.setattr(schema, "_WAL_PAGES", 10)
    path = tmp_path / "e.sqlite3"

    def size() -> int:
        return path.with_name("e.sqlite3-wal").stat().st_size

    async with sqlite_broker(path) as broker:
        await publish(broker, "a")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin")
        other.execute("select * from channels").fetchall()
        for _ in range(50):
            await publish(broker, "a", bytes(50_000))
        assert size() > 2_000_000, "the reader keeps it from being copied"
        other.execute("commit")
        other.close()
        async with asyncio.timeout(30):
            while size() > 500_000:
                await publish(broker, "a")
                await asyncio.sleep(0.01)
        assert (await read(broker, "a")).head.first == 1


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
async def test_full_waits_for_the_disk(tmp_path: Path, synchronous: str, level: int) -> None:
    async with sqlite_broker(tmp_path / "e.sqlite3", synchronous=synchronous) as broker:
        assert await broker._writer.thread.ask(
            lambda at: at.connection.execute("pragma synchronous").fetchone()
        ) == (level,)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_loop_that_was_held_up_takes_what_was_done_for_done(
    tmp_path: Path, run: Callable[[Coroutine[object, object, None]], None]
) -> None:
    async def hold_up() -> None:
        async with sqlite_broker(tmp_path / "e.sqlite3", limits=QUICK) as broker:
            calls = [Call() for _ in range(20)]
            for call in calls:
                broker.log.append([Draft("a", b"1")], call)
            time.sleep(2 * QUICK.broker_timeout_s)  # noqa: ASYNC251 - as an application might
            assert [(await call.result())[0].offset for call in calls] == list(range(1, 21))

    run(hold_up())


async def test_a_file_removed_with_much_in_its_write_ahead_log_leaves_nothing_to_the_next(
    tmp_path: Path,
) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path) as one, sqlite_broker(path) as other:
        for number in range(300):
            await publish(one, f"c{number % 7}", bytes(1_000))
            await read(other, f"c{number % 7}")
        path.unlink()
        for broker in (one, other, one):
            for number in range(300):
                await publish(broker, f"d{number % 5}", b"%d" % number)
        assert (await heads(one, "d0"))["d0"].last == 180
        assert not (await heads(other, "c0"))["c0"].exists
        checked = sqlite3.connect(path)
        assert checked.execute("pragma integrity_check").fetchone() == ("ok",)
        checked.close()
