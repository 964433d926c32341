"""One worker of a cluster of tests, in a process of its own: ``python -m tests.e2e.cluster_worker JSON``.

It serves on listening sockets that it inherits, and prints a line when it does.
"""

from __future__ import annotations

import json
import sys

from everywire import Everywire
from everywire.access.tokens import Tokens
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve

WIDE = Window(max_publications=50_000, max_bytes=50_000_000, max_age_s=3_600.0)


def main(text: str) -> None:
    """Serve until a signal comes."""
    given = json.loads(text)
    limits = Limits(max_connections_per_address=0, **given["limits"])
    wire = Everywire(
        given["broker"],
        node=given["node"],
        dev=True,
        is_loopback=True,
        limits=limits,
        channels=SettingsTable((), ChannelSettings(WIDE)),
        tokens=Tokens(secret=given["secret"]),
        state_dir=given["state_dir"],
    )
    sockets = given["sockets"]
    options = ServerOptions(
        listen=tuple(Address(host="127.0.0.1", port=port) for port, _ in sockets),
        inherited=tuple((place, fd) for place, (_, fd) in enumerate(sockets)),
        limits=limits,
        log_level="warning",
        drain_s=1.0,
    )

    async def work() -> None:
        async with wire.lifespan():
            await serve(wire.handle, options, on_start=lambda server: print("up", flush=True))

    run(work())


if __name__ == "__main__":
    main(sys.argv[1])
