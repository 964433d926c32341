"""An application for ASGI servers in tests: every answer says which process gave it.

``BROKER`` names a broker, "" none.
"""

from __future__ import annotations

import os
from typing import Any

from everywire import Everywire

wire = Everywire(os.environ.get("BROKER") or None, dev=True, is_loopback=True)


async def app(scope: Any, receive: Any, send: Any) -> None:
    async def say(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-process", b"%d" % os.getpid())]}
        await send(message)

    await wire.asgi(scope, receive, say)
