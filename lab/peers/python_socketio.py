"""A peer of the benchmark: python-socketio on uvicorn, on the port of the command line.

``subscribe`` joins a room and is acknowledged; what is posted to ``/publish`` goes to all in the room
``bench``. uvicorn runs as its extra ``standard`` has it: uvloop, httptools, websockets.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import socketio
import uvicorn

sio = socketio.AsyncServer(async_mode="asgi")


@sio.event
async def subscribe(sid: str, room: str) -> None:
    await sio.enter_room(sid, room)


async def publish(scope: Any, receive: Any, send: Any) -> None:
    """Answer a POST once its body is emitted."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await sio.emit("message", json.loads(body), room="bench")
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


if __name__ == "__main__":
    app = socketio.ASGIApp(sio, publish)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="off")
