"""What `/metrics` tells of Engine.IO, Socket.IO and SockJS."""

from __future__ import annotations

from typing import Any

from tests.handlers.socketio_talking import client
from tests.serving import Site, serving, until


async def figure(site: Site, name: str) -> float:
    """Return one figure, named with its label."""
    text = (await site.http.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


async def test_clients_are_counted_while_they_are_there_and_after() -> None:
    async with serving("own", ("", "")) as site:
        sio = site.wire.socketio

        @sio.on("known")
        async def known(session: Any) -> None: ...

        sio.namespace("/admin")
        assert await figure(site, "everywire_socketio_sockets") == 0
        async with client(site, namespaces=("/", "/admin")) as ann:
            async with client(site, transports=("polling",)):
                assert await figure(site, 'everywire_engineio_connections{carrier="polling"}') == 1
                assert await figure(site, 'everywire_engineio_connections{carrier="websocket"}') == 1
                assert await figure(site, "everywire_socketio_connections") == 2
                assert await figure(site, "everywire_socketio_sockets") == 3
                assert await figure(site, "everywire_socketio_namespaces") == 2
                await sio.enter_room(ann.sid, "room")
                assert await figure(site, "everywire_socketio_rooms") == 1
            await ann.call("known")
            await ann.emit("unknown")
            await ann.call("known")
            assert await figure(site, 'everywire_socketio_total{what="events"}') == 3
            assert await figure(site, 'everywire_socketio_total{what="unhandled"}') == 1
        await until(lambda: not sio.sockets.statistics()["sockets"])
        assert await figure(site, "everywire_socketio_parked") == 0  # this client cannot come back
        assert await figure(site, 'everywire_socketio_total{what="connected"}') == 3
        assert await figure(site, 'everywire_engineio_total{what="opened"}') == 2
        assert await figure(site, "everywire_sockjs_sessions") == 0
        await site.http.post("/sockjs/000/abcdefgh/xhr")
        assert await figure(site, "everywire_sockjs_sessions") == 1
