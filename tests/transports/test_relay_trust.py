"""Who may bring forwarded requests, what is believed of them, and that they go one hop only."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import httpx
import pytest

from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.private import PrivateServer, remove_left_behind
from everywire.testing.shared_broker import SharedStore
from everywire.transports.exchange import Exchange, Request
from everywire.transports.relay import was_forwarded
from everywire.transports.relay_letters import FIELD, Letter, Seal
from everywire.transports.relay_private import PrivateSide
from tests.serving import Site, until
from tests.transports.engines import PATH, Polling, open_polling
from tests.transports.relaying import Node, at, node_of, relaying

SECRET: Final = b"s" * 32
HOST: Final = "example.com"


def request_of(target: str = "/a?b=c", method: str = "GET") -> Request:
    path, _, query = target.partition("?")
    return Request(method, path, query, {}, scheme="https", host=HOST, peer="192.0.2.1", is_local=False)


@dataclass
class Clock:
    """A clock that stands still."""

    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


# -- letters -----------------------------------------------------------------------------------------


def test_a_letter_says_who_the_client_is() -> None:
    seal = Seal(SECRET, Clock())
    field = seal.write("owner", request_of(), "/a?b=c")
    assert seal.read(field, "owner", "GET", "/a?b=c") == Letter(
        "owner", 1_000_000.0, "192.0.2.1", "https", HOST, False
    )


def test_a_letter_is_good_for_one_node_one_request_and_some_minutes() -> None:
    clock = Clock()
    seal = Seal(SECRET, clock)
    field = seal.write("owner", request_of(), "/a?b=c")
    assert seal.read(field, "other", "GET", "/a?b=c") is None
    assert seal.read(field, "owner", "POST", "/a?b=c") is None
    assert seal.read(field, "owner", "GET", "/a?b=d") is None
    for now_s, is_good in ((700_000.0, False), (999_800.0, True), (1_000_200.0, True), (1_000_301.0, False)):
        clock.now_s = now_s
        assert (seal.read(field, "owner", "GET", "/a?b=c") is not None) is is_good


def test_a_letter_of_another_store_is_none() -> None:
    field = Seal(b"t" * 32, Clock()).write("owner", request_of(), "/")
    assert Seal(SECRET, Clock()).read(field, "owner", "GET", "/") is None


def test_no_byte_of_a_letter_can_be_changed() -> None:
    seal = Seal(SECRET, Clock())
    field = seal.write("owner", request_of(), "/")
    for index in range(len(field)):
        changed = field[:index] + bytes([field[index] ^ 1]) + field[index + 1 :]
        assert seal.read(changed, "owner", "GET", "/") is None
    for broken in (b"", b".", field[:-1], b"x" * 10_000, b"\xff.\xff", field + b"0"):
        assert seal.read(broken, "owner", "GET", "/") is None


def test_a_sealed_letter_that_says_nothing_is_none() -> None:
    seal = Seal(SECRET, Clock())
    for text in (b"", b"e30=", b"W10=", b"====", b"!!!!"):
        assert seal.read(text + b"." + seal._code(text, "GET", "/"), "owner", "GET", "/") is None


async def test_nodes_of_a_store_agree_on_a_secret() -> None:
    store = MemoryBroker().store
    one, other, stranger = Seal(), Seal(), Seal()
    await one.agree(store)
    await other.agree(store)
    field = one.write("owner", request_of(), "/")
    assert other.read(field, "owner", "GET", "/") is not None
    assert stranger.read(field, "owner", "GET", "/") is None


# -- the private address ----------------------------------------------------------------------------------


async def ask_privately(site: Site, target: str, **fields: str) -> httpx.Response:
    """Ask a node at its private address, as anything on this machine could."""
    transport = httpx.AsyncHTTPTransport(uds=node_of(site).private_server.unix)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(target, headers=fields)


async def test_only_sealed_requests_are_taken_there() -> None:
    async with relaying() as (here, there):
        client = await open_polling(here)
        for fields in ({}, {"everywire-relay": "x.y"}, {"x-forwarded-for": "127.0.0.1"}):
            for target in (client.target, "/healthz", "/channels/news", "/metrics"):
                answer = await ask_privately(here, target, **fields)
                assert answer.status_code == 403, target
        assert node_of(here).private.refused == 12
        # Sealed, but for another node, and for another request.
        seal = node_of(there).relay.seal
        for to, target in (("node1", client.target), ("node0", PATH)):
            field = seal.write(to, request_of(target), target).decode()
            assert (await ask_privately(here, client.target, **{"everywire-relay": field})).status_code == 403
        field = seal.write("node0", request_of(client.target), client.target).decode()
        node_of(here).upper.say("hello")
        answer = await ask_privately(here, client.target, **{"everywire-relay": field})
        # Its host is not one that is served here: the gate is passed again.
        assert answer.status_code == 403 and "example.com" in answer.text


async def test_the_socket_and_its_directory_are_the_users_alone() -> None:
    async with relaying(1) as (here,):
        path = node_of(here).private_server.unix
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.lstat(os.path.dirname(path)).st_mode) == 0o700
    with pytest.raises(FileNotFoundError):
        os.lstat(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_users_process_is_cut_off(tmp_path: Path) -> None:
    async with relaying(1) as (here,):
        path = node_of(here).private_server.unix
        for directory in (Path(path).parent, Path(path).parent.parent, Path(path)):
            directory.chmod(0o777)  # as if nothing else protected it
        program = (
            "import os, socket, sys\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(10)\n"
            "try:\n    s.send(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); print(s.recv(100))\n"
            "except OSError as error: print(type(error).__name__)\n"
        )
        process = await asyncio.create_subprocess_exec(
            "python3", "-c", program, path, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert out.strip() in (b"b''", b"ConnectionResetError", b"BrokenPipeError")
        assert node_of(here).private.refused == node_of(here).private.taken == 0


# -- what a client says -------------------------------------------------------------------------------------


async def test_the_owner_sees_the_client_and_not_the_node_between(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    async with relaying(2, log_fd=log) as (here, there):
        client = at(there, await open_polling(here))
        await client.send("4hello")
        await until(lambda: node_of(here).private.taken == 1)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    opened = [line for line in lines if line["event"] == "open"]
    assert [line["peer"] for line in opened] == ["127.0.0.1"]
    assert client.sid not in (tmp_path / "log").read_text()
    os.close(log)


async def test_forged_fields_are_thrown_away() -> None:
    async with relaying(2) as (here, there):
        client = await open_polling(here)
        seal = node_of(there).relay.seal
        forged = seal.write("node0", request_of(client.target), client.target).decode()
        node_of(here).upper.say("hello")
        # At a public address it means nothing, whoever sealed it; and it is not passed on.
        for site in (here, there):
            node_of(here).upper.say("hello")
            answer = await site.http.get(client.target, headers={"everywire-relay": forged})
            assert answer.text.startswith("4hello")
        answer = await there.http.get(client.target, headers={"everywire-relay": forged, "host": HOST})
        assert answer.status_code == 403


def test_a_request_is_what_it_was_where_it_came_from_the_client() -> None:
    seal = Seal(SECRET)
    seen: list[Request] = []
    private = PrivateSide(lambda exchange: seen.append(exchange.request), seal, "owner", lambda: 0.0)
    fields = {b"host": b"relay", b"x-real-ip": b"::1", FIELD: seal.write("owner", request_of(), "/a?b=c")}
    request = Request("GET", "/a", "b=c", fields, peer="unix", host="relay", is_local=True)
    request.memo = {"what others": "know"}
    private(cast(Exchange, SimpleNamespace(request=request)))
    assert seen == [request]
    assert request.headers == {b"host": b"relay", b"x-real-ip": b"::1"}
    assert (request.peer, request.scheme, request.host) == ("192.0.2.1", "https", HOST)
    assert not request.is_local and was_forwarded(request) and len(request.memo) == 1


async def test_a_request_goes_one_hop_only() -> None:
    async with relaying(3) as sites:
        client = await open_polling(sites[2])
        target = client.target
        relay = node_of(sites[0]).relay
        request = request_of(target)
        request.host, request.scheme = sites[0].authority, "http"
        # Sealed for a node that does not own the connection: it does not ask further.
        field = relay.seal.write("node1", request, target).decode()
        answer = await ask_privately(sites[1], target, **{"everywire-relay": field})
        assert (answer.status_code, answer.json()["code"]) == (400, 1)
        assert node_of(sites[1]).relay.forwarded == 0
        assert FIELD.decode() not in answer.headers


# -- other machines ---------------------------------------------------------------------------------------


async def test_other_machines_come_by_tcp(tmp_path: Path) -> None:
    async with relaying(2, advertise="127.0.0.1:0") as (here, there):
        client = at(there, await open_polling(here))
        os.unlink(node_of(here).private_server.unix)  # it is on another machine
        await client.send("4hello")
        assert await client.poll() == "4hello"
        assert node_of(here).private_server.tcp.startswith("127.0.0.1:")
        async with httpx.AsyncClient(base_url=f"http://{node_of(here).private_server.tcp}") as stranger:
            assert (await stranger.get(client.target)).status_code == 403


@pytest.mark.parametrize("advertise", ["host", ":80", "host:", "host:x", "host:70000"])
def test_an_address_that_is_none_is_told(advertise: str) -> None:
    with pytest.raises(SettingsError, match="advertise"):
        PrivateServer(lambda exchange: None, None, "node", advertise=advertise, limits=Limits())


async def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        advertise = f"127.0.0.1:{taken.getsockname()[1]}"
        broker = SharedStore().node("node")
        wire = Node(broker=broker, dev=True, advertise=advertise, state_dir=str(tmp_path / "state"))
        with pytest.raises(SettingsError, match="in use"):
            await wire.start()
        await wire.close()


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too long"):
        PrivateServer(lambda exchange: None, tmp_path / ("x" * 100), "node", limits=Limits())


def test_sockets_of_nodes_that_were_killed_are_removed(tmp_path: Path) -> None:
    left = []
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "alive.sock"))
        alive.listen()
        for name in ("old.sock", "young.sock"):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(tmp_path / name))
        for name in ("old.sock", "alive.sock"):
            os.utime(tmp_path / name, (0, 0))
        remove_left_behind(tmp_path)
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["alive.sock", "young.sock"]


async def test_ids_that_somebody_made_up_cost_the_store_little() -> None:
    async with relaying(1, store=SharedStore()) as (here,):
        clients = [Polling(here, {"sid": f"made-up-{number}.x"}) for number in range(200)]
        answers = await asyncio.gather(*[client.get() for client in clients])
        assert {answer.status_code for answer in answers} == {400}
        assert node_of(here).relay.peers.looks < 50
