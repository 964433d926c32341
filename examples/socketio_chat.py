"""A chat for any client of Socket.IO, which every other wire can read, too. Run it, open
http://127.0.0.1:8002/ in two windows, and read along:

curl -N -H 'Accept: text/event-stream' 'http://127.0.0.1:8002/channels/lobby'
"""

import sys
from typing import Annotated, Any

from msgspec import Meta

from everywire import ConnectionRefused, Everywire, SocketSession
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve
from everywire.transports.exchange import Exchange
from everywire.transports.service import WholeAnswer

wire = Everywire(dev=True, is_loopback=True)
sio = wire.socketio

Text = Annotated[str, Meta(min_length=1, max_length=500)]


@sio.event
async def connect(session: SocketSession, auth: dict[str, Any] | None) -> None:
    name = (auth or {}).get("name")
    if not name:
        raise ConnectionRefused("say who you are", {"missing": "name"})
    if not session.recovered:  # else its room and memo are there still, and what it missed follows
        session.memo["name"] = name
        await session.join("lobby")
    await session.to("lobby").emit("joined", name)


@sio.event
async def say(session: SocketSession, text: Text) -> str:
    await sio.emit("said", {"by": session.memo["name"], "text": text}, to="lobby", skip=session)
    return "sent"


@sio.event
async def disconnect(session: SocketSession, reason: str) -> None:
    await sio.emit("left", session.memo.get("name"), to="lobby")


PAGE = b"""<!doctype html><meta charset="utf-8"><title>Chat</title>
<script src="https://cdn.socket.io/4.8.1/socket.io.min.js"></script>
<form><input autofocus> <button>say</button></form><pre></pre>
<script>
  const name = prompt("Your name?"), lines = document.querySelector("pre");
  const write = (line) => lines.append(line + "\\n");
  const socket = io({ auth: { name } });
  socket.on("connect", () => write(socket.recovered ? "(back again, nothing missed)" : "(connected)"));
  socket.on("disconnect", (reason) => write(`(${reason})`));
  socket.on("joined", (who) => write(`${who} is here`));
  socket.on("left", (who) => write(`${who} has left`));
  socket.on("said", ({ by, text }) => write(`${by}: ${text}`));
  socket.on("message", (data) => write(`by another wire: ${JSON.stringify(data)}`));
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const input = event.target.querySelector("input"), text = input.value;
    socket.emit("say", text, (answer) => write(answer === "sent" ? `me: ${text}` : answer.error.message));
    input.value = "";
  };
</script>
"""


def handle(exchange: Exchange) -> None:
    if exchange.request.path == "/":
        exchange.attend(WholeAnswer(), "page")
        exchange.respond(200, [(b"content-type", b"text/html; charset=utf-8")], PAGE)
    else:
        wire.handle(exchange)


async def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8002
    async with wire.lifespan():
        await serve(handle, ServerOptions(listen=(Address(port=port),)))


if __name__ == "__main__":
    run(main())
