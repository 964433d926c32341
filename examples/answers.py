"""Answers as they are made, like those of a language model. Run it, then ask something:

curl -N -H 'Accept: text/event-stream' 'http://127.0.0.1:8001/channels/answer:why?after=earliest'

The first reader begins the answer. Ask again while it runs, or within five minutes: the same answer comes,
from its beginning, and nothing is made twice. Cut a reader off and let it come back: it goes on where it was.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from everywire import Everywire
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8001
wire = Everywire(dev=True, is_loopback=True)


@wire.produce("answer:*")
async def answer(channel: str) -> AsyncIterator[str]:
    question = channel.removeprefix("answer:")
    for word in f"You ask: {question}? It depends, as everything does, on what you ask of it.".split():
        await asyncio.sleep(0.05)  # a model thinks
        yield f"{word} "


async def main() -> None:
    async with wire.lifespan():
        await serve(wire.handle, ServerOptions(listen=(Address(port=port),)))  # until Ctrl-C


if __name__ == "__main__":
    run(main())
