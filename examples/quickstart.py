"""A clock on every wire. Run it, then read it in any way you like:

curl 'http://127.0.0.1:8001/channels/clock?wait=25'
curl -N -H 'Accept: text/event-stream' 'http://127.0.0.1:8001/channels/clock'
"""

import asyncio
import sys
from datetime import datetime

from everywire import Everywire
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8001
wire = Everywire(dev=True, is_loopback=True)


async def tell_the_time() -> None:
    while True:
        await wire.publish("clock", {"now": datetime.now().isoformat()}, event="tick")
        await asyncio.sleep(1)


async def main() -> None:
    async with wire.lifespan():
        telling = asyncio.create_task(tell_the_time())
        await serve(wire.handle, ServerOptions(listen=(Address(port=port),)))  # until Ctrl-C
        telling.cancel()


if __name__ == "__main__":
    run(main())
