"""Listening: free ports, names, unix sockets; and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.listening import bind, bind_slots, steer
from everywire.server.options import Address, ServerOptions
from everywire.server.server import Server
from tests.server.driving import Client, Handlers, running


def server_on(*addresses: Address) -> Server:
    return Server(Handlers(), ServerOptions(listen=addresses, log_fd=None))


async def test_a_free_port_is_told() -> None:
    async with running() as site:
        assert site.server.addresses == [f"http://127.0.0.1:{site.port}"]
        assert site.port > 0


async def test_a_port_that_is_taken_is_named_and_nothing_else_is_left_open() -> None:
    async with running() as site:
        other = server_on(Address(port=0), Address(port=site.port))
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{site.port} is in use"):
            await other.start()
        assert (await site.ask(site.get("/"))).status == 200


async def test_a_port_is_free_again_at_once() -> None:
    async with running() as site:
        port = site.port
        assert (await site.ask(site.get("/", "Connection: close"))).status == 200
    async with running(listen=(Address(port=port),)) as site:
        assert (await site.ask(site.get("/"))).status == 200


async def test_an_address_of_another_machine() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:0 is no address of this machine"):
        await server_on(Address(host="192.0.2.1", port=0)).start()


async def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on no-such-host\.invalid:0"):
        await server_on(Address(host="no-such-host.invalid", port=0)).start()


async def test_localhost_is_all_its_addresses_on_one_port() -> None:
    server = server_on(Address(host="localhost", port=0))
    await server.start()
    try:
        assert len({address.rpartition(":")[2] for address in server.addresses}) == 1
        hosts = {address.split("//")[1].rpartition(":")[0] for address in server.addresses}
        assert hosts <= {"127.0.0.1", "[::1]"}
        for address in server.addresses:
            host, _, port = address.split("//")[1].rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            client = Client(reader, writer)
            client.send("GET /about HTTP/1.1\r\nHost: a.test\r\n\r\n")
            body = (await client.response()).body.decode()
            assert body == f"http a.test {host.strip('[]')} True GET"
            client.close()
    finally:
        await server.close()


def test_options_are_set_once_for_all_connections() -> None:
    (listening,) = bind(Address(port=0), Limits(notsent_lowat_bytes=12_345, stall_timeout_s=7))
    with listening:
        listening.setblocking(True)
        listening.listen()
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, 25) == 12_345
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert not listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


async def ask_unix(path: Path, *fields: str) -> bytes:
    client = Client(*await asyncio.open_unix_connection(str(path)))
    client.send("\r\n".join(["GET /about HTTP/1.1", "Host: a.test", *fields, "", ""]))
    body = (await client.response()).body
    client.close()
    return body


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running(listen=(Address(unix=str(path), unix_mode=0o600),)) as site:
        assert site.server.addresses == [f"unix:{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask_unix(path) == b"http a.test unix True GET"
        assert await ask_unix(path, "X-Forwarded-For: 203.0.113.5") == b"http a.test unix False GET"
    assert not path.exists()


async def test_a_unix_socket_behind_which_a_trusted_proxy_stands(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running(listen=(Address(unix=str(path)),), trusted_proxies=("unix",)):
        told = await ask_unix(path, "X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https")
        assert told == b"https a.test 203.0.113.5 False GET"


async def test_a_unix_socket_that_somebody_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with running(listen=(Address(unix=str(path)),)):
        assert await ask_unix(path)


async def test_a_unix_socket_on_which_somebody_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running(listen=(Address(unix=str(path)),)):
        with pytest.raises(SettingsError, match="is in use"):
            await server_on(Address(unix=str(path))).start()
        assert await ask_unix(path)


async def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(SettingsError, match="is no socket"):
        await server_on(Address(unix=str(path))).start()
    assert path.read_text() == "data"


async def test_a_unix_socket_that_another_server_took_over_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running(listen=(Address(unix=str(path)),)):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


def test_addresses_as_people_write_them() -> None:
    assert str(Address(host="::1", port=80)) == "[::1]:80"
    assert Address(host="::1", port=80, tls_cert="x").url == "https://[::1]:80"
    assert Address(unix="/run/x").url == "unix:/run/x"


# -- slots: one queue for each worker --------------------------------------------


def close(rows: list[list[socket.socket]]) -> None:
    for sock in {sock for row in rows for sock in row}:
        sock.close()


def shared_out(slots: list[socket.socket], count: int) -> list[int]:
    """Connect so many times; return how many connections each slot got."""
    host, port = slots[0].getsockname()[:2]
    clients = [socket.create_connection((host, port)) for _ in range(count)]
    got = [0] * len(slots)
    for number, slot in enumerate(slots):
        while True:
            try:
                slot.accept()[0].close()
            except BlockingIOError:
                break
            got[number] += 1
    for client in clients:
        client.close()
    return got


def test_each_slot_has_its_own_queue() -> None:
    rows = bind_slots(Address(port=0), Limits(), 4, 256)
    try:
        (slots,) = rows
        assert len({slot.getsockname()[1] for slot in slots}) == 1
        got = shared_out(slots, 200)
        assert sum(got) == 200 and min(got) > 10
    finally:
        close(rows)


def test_connections_come_only_to_the_slots_that_are_named() -> None:
    rows = bind_slots(Address(port=0), Limits(), 4, 256)
    try:
        (slots,) = rows
        assert steer(slots, [0, 3])
        got = shared_out(slots, 100)
        assert got[1] == got[2] == 0 and min(got[0], got[3]) > 10
        assert steer(slots, [1])
        assert shared_out(slots, 20) == [0, 20, 0, 0]
        assert steer(slots, [0, 1, 2, 3])
        assert min(shared_out(slots, 200)) > 10
        assert not steer(slots, [])
    finally:
        close(rows)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_port_whose_slots_are_another_parents_is_taken(slots: int) -> None:
    rows = bind_slots(Address(port=0), Limits(), 3, 16)
    port = rows[0][0].getsockname()[1]
    try:
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port} is in use"):
            bind_slots(Address(port=port), Limits(), slots, 16)
    finally:
        close(rows)
    close(bind_slots(Address(port=port), Limits(), slots, 16))


def test_a_unix_socket_is_one_for_all_slots(tmp_path: Path) -> None:
    rows = bind_slots(Address(unix=str(tmp_path / "socket")), Limits(), 3, 16)
    assert len(rows) == 1 and len(rows[0]) == 3 and len(set(rows[0])) == 1
    assert not steer(rows[0], [0])
    close(rows)


def test_the_slots_of_a_name_are_those_of_all_its_addresses() -> None:
    rows = bind_slots(Address(host="localhost", port=0), Limits(), 2, 16)
    try:
        assert all(len(set(row)) == 2 for row in rows)
        assert len({sock.getsockname()[1] for row in rows for sock in row}) == 1
    finally:
        close(rows)


async def test_a_server_on_inherited_sockets_leaves_them_listening() -> None:
    rows = bind_slots(Address(port=0), Limits(), 2, 16)
    (slots,) = rows
    try:
        steer(slots, [1])
        inherited = ((0, os.dup(slots[1].fileno())),)
        server = Server(
            Handlers(), ServerOptions(listen=(Address(port=0),), inherited=inherited, log_fd=None)
        )
        await server.start()
        host, port = slots[1].getsockname()
        assert server.addresses == [f"http://127.0.0.1:{port}"]
        client = Client(*await asyncio.open_connection(host, port))
        client.send("GET /about HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (await client.response()).status == 200
        client.close()
        await server.drain(1)
        await server.close()
        with socket.create_connection((host, port)):  # it waits in the queue, and is not refused
            slots[1].accept()[0].close()
    finally:
        close(rows)
