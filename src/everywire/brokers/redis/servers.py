"""Where in Redis a key is, and the links there: one server, the master of a Sentinel set, or a cluster.

Links are opened when they are needed, one attempt at a time per server, with growing pauses between
failures: who asks meanwhile hears at once that Redis is away. Answers that say "elsewhere" or "not now" (a
moved slot, a failover, a server that is loading) mean that nothing was done, and are tried again until the
deadline; whatever broke on the way is not, as nobody knows what was done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from everywire.brokers.redis.address import Address, Place
from everywire.brokers.redis.channels import CHANNEL_SCRIPTS
from everywire.brokers.redis.link import Argument, Link, Reply
from everywire.brokers.redis.scripts import SCRIPTS
from everywire.core.backoff import Backoff
from everywire.core.errors import BrokerError

__all__ = ["Changed", "Servers"]

_PAUSE_S: Final = 0.02
"""Before something is tried again that a server could not do just now."""
_LOCATE_S: Final = 0.2
"""Between two questions where everything is."""
_TELL_EVERY: Final = 100
"""Failed attempts to reach a server, from one line in the log to the next."""
_OPEN_S: Final = 0.5
"""For servers of a cluster that nobody waits for yet."""
_WORDS: Final = (
    (MovedError, "MOVED"),
    (AskError, "ASK"),
    (NoScriptError, "NOSCRIPT"),
    (ReadOnlyError, "READONLY"),
    (TryAgainError, "TRYAGAIN"),
    (ClusterDownError, "CLUSTERDOWN"),
    (MasterDownError, "MASTERDOWN"),
)
_NOT_NOW: Final = frozenset({"TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING"})
_SPLIT: Final = "Script attempted to access a non local key"
"""What a script hears of a key that was moved to another server before the rest of its channel."""

_log: Final = logging.getLogger("everywire.brokers")


class Changed(Exception):
    """A link was opened anew, and what is there was not compared yet."""


class Servers:
    """The servers of one address, and a link to each that is needed."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        self.generation = 0
        """How many links were opened so far: when it grows, something may have been lost."""
        self.reconnects = 0
        self.shaken: Callable[[], object] = lambda: None
        """Called when a link was opened or lost."""
        self._timeout_s = timeout_s
        self._links: dict[Place, Link] = {}
        self._known: set[Place] = set()
        self._opening: dict[Place, asyncio.Task[Link]] = {}
        self._pauses: dict[Place, tuple[Backoff, float, BrokerError]] = {}
        """Of servers that could not be reached: the next attempt's time, and what the last one said."""
        self._slots: dict[int, Place] = {}
        """Where each slot is; for one server and for Sentinels slot 0 is all."""
        self._locating: asyncio.Task[None] | None = None
        self._located_at = -1e9
        self._is_closed = False
        if address.kind == "single":
            self._slots[0] = address.places[0]

    # -- links ----------------------------------------------------------------

    def link_now(self, slot: int) -> Link | None:
        """Return the link for a slot if it is open."""
        place = self._slots.get(slot)
        link = self._links.get(place) if place is not None else None
        return link if link is not None and link.is_open else None

    async def link(self, slot: int) -> Link:
        """Return the link for a slot, opened if need be; `BrokerError` when its server is away."""
        return self.link_now(slot) or await self._link_to(await self.place(slot))

    async def place(self, slot: int) -> Place:
        """Return where a slot is; `BrokerError` when nobody can say."""
        place = self._slots.get(slot)
        if place is None:
            await self._locate()
            place = self._slots.get(slot)
        if place is None:
            raise BrokerError("no Redis server says who is in charge")
        return place

    @property
    def links(self) -> list[Link]:
        """The links that are open."""
        return [link for link in self._links.values() if link.is_open]

    async def open_all(self) -> None:
        """Open what can be opened soon of the links to all servers of a cluster."""
        tasks = [asyncio.ensure_future(self._link_to(place)) for place in set(self._slots.values())]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_OPEN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _link_to(self, place: Place) -> Link:
        link = self._links.get(place)
        if link is not None and link.is_open:
            return link
        if self._is_closed:
            raise BrokerError("the broker is closed")
        opening = self._opening.get(place)
        if opening is None:
            paused = self._pauses.get(place)
            if paused is not None and asyncio.get_running_loop().time() < paused[1]:
                self.mislaid(place)
                raise paused[2]
            opening = asyncio.get_running_loop().create_task(self._open(place), name="open a link to Redis")
            opening.add_done_callback(partial(self._opened, place))
            self._opening[place] = opening
        # Several wait for it; that one of them is cancelled must not end it for the others.
        return await asyncio.shield(opening)

    def _opened(self, place: Place, task: asyncio.Task[Link]) -> None:
        self._opening.pop(place, None)
        if not task.cancelled():
            task.exception()  # whoever waited for it has heard; it is no news when nobody did

    async def _open(self, place: Place) -> Link:
        try:
            link = await Link.open(self.address, place, self._timeout_s, self._closed)
            try:
                await self._prepare(link)
            except (ResponseError, BrokerError) as error:
                link.close(f"Redis at {place[0]}:{place[1]} cannot be used: {error}")
                raise BrokerError(link.reason) from error
        except BrokerError as error:
            backoff = self._pauses[place][0] if place in self._pauses else Backoff(0.05, 0.5)
            at = asyncio.get_running_loop().time() + backoff.next_delay_s()
            if backoff.failures % _TELL_EVERY == 1:
                _log.warning("%s", error.sentence)
            self._pauses[place] = (backoff, at, error)
            self.mislaid(place)
            raise
        self._pauses.pop(place, None)
        self._links[place] = link
        self.generation += 1
        self.reconnects += place in self._known
        self._known.add(place)
        self.shaken()
        return link

    async def _prepare(self, link: Link) -> None:
        found = await asyncio.gather(
            link.ask("INFO", "server"),
            link.ask("INFO", "memory"),
            *(link.ask("SCRIPT", "LOAD", one.text) for one in (*SCRIPTS, *CHANNEL_SCRIPTS)),
        )
        info, memory = _info(found[0]), _info(found[1])
        link.run = info.get("run_id", "")
        if memory.get("maxmemory", "0") != "0" and memory.get("maxmemory_policy") != "noeviction":
            _log.warning(
                "Redis at %s:%s evicts keys when its memory is full; maxmemory-policy has to be noeviction",
                *link.place,
            )
        if self.address.kind == "sentinel" and (await link.ask("ROLE"))[0] != b"master":
            raise BrokerError(f"Redis at {link.place[0]}:{link.place[1]} is no master any more")

    def _closed(self, link: Link) -> None:
        if self._links.get(link.place) is link:
            del self._links[link.place]
            if not self._is_closed:
                _log.info("%s", link.reason)
        self.mislaid(link.place)
        self.shaken()

    def mislaid(self, place: Place) -> None:
        """Ask anew where the slots of a server are, before they are used again."""
        if self.address.kind == "sentinel":
            self._slots.pop(0, None)
        elif self.address.kind == "cluster" and len(self._slots) > 0:
            self.moved()

    def moved(self) -> None:
        """Begin to ask a cluster where its slots are, as something has moved."""
        if not self._is_closed and self.address.kind == "cluster":
            self._locate_soon()

    def drop_link(self, slot: int, reason: str) -> None:
        """Close the link for a slot, which is deaf; the next call opens another."""
        link = self.link_now(slot)
        if link is not None:
            link.close(reason)

    async def close(self) -> None:
        """Close everything."""
        self._is_closed = True
        links = list(self._links.values())
        for link in links:
            link.close("the broker is closed")
        tasks = [*self._opening.values(), *([self._locating] if self._locating is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(link.wait_closed() for link in links))

    # -- where is what ----------------------------------------------------------

    def _locate_soon(self) -> asyncio.Task[None]:
        if self._locating is None or self._locating.done():
            self._locating = asyncio.get_running_loop().create_task(self._find(), name="locate Redis")
        return self._locating

    async def _locate(self) -> None:
        await asyncio.shield(self._locate_soon())

    async def _find(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._located_at + _LOCATE_S - loop.time()))
        self._located_at = loop.time()
        find = self._ask_sentinel if self.address.kind == "sentinel" else self._ask_node
        asked: set[Place] = set()
        for place in [*self._links, *self.address.places, *set(self._slots.values())]:
            if place in asked or (self.address.kind == "sentinel" and place not in self.address.places):
                continue
            asked.add(place)
            try:
                async with asyncio.timeout(min(1.0, self._timeout_s)):
                    found = await find(place)
            except (BrokerError, ResponseError, TimeoutError) as error:
                _log.debug("Redis at %s:%s does not say where everything is: %s", *place, error)
                continue
            if found:
                self._slots = found
                return

    async def _ask_sentinel(self, place: Place) -> dict[int, Place]:
        address = self.address
        password = address.sentinel_password
        sentinel = Address(
            "single", (place,), password=password, is_tls=address.is_tls, ca_file=address.ca_file
        )
        link = await Link.open(sentinel, place, self._timeout_s, lambda _: None)
        try:
            found = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)
        finally:
            link.close("asked")
            await link.wait_closed()
        return {0: (found[0].decode(), int(found[1]))} if found else {}

    async def _ask_node(self, place: Place) -> dict[int, Place]:
        link = await self._link_to(place)
        slots: dict[int, Place] = {}
        for first, last, master, *_ in await link.ask("CLUSTER", "SLOTS"):
            host = master[0].decode() if master[0] else place[0]
            found = (host, int(master[1]))
            slots.update(dict.fromkeys(range(first, last + 1), found))
        return slots

    # -- calls --------------------------------------------------------------------

    async def ask(
        self, slot: int, command: Sequence[Argument], is_safe: Callable[[], bool] | None = None
    ) -> Reply:
        """Send a command to where a slot is, until it is done or the time is over.

        Raises `BrokerError` when Redis is away, broke on the way, or refuses the command, and `Changed`, with
        nothing sent, when it is not safe once the link is there.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        asking: Place | None = None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    link = await (self._link_to(asking) if asking is not None else self.link(slot))
                    if is_safe is not None and not is_safe():
                        raise Changed
                    if asking is not None:
                        link.call(("ASKING",), _ignore)
                    return await link.ask(*command)
            except TimeoutError:
                raise BrokerError("Redis does not answer in time") from None
            except ResponseError as error:
                asking = await self._went_elsewhere(slot, link, error)
                if loop.time() >= deadline:
                    raise BrokerError(f"Redis cannot do it now: {error}") from None

    async def _went_elsewhere(self, slot: int, link: Link, error: ResponseError) -> Place | None:
        """Prepare another attempt when nothing was done; return whom to ask this once."""
        word, text = _word(error), str(error)
        if word in ("MOVED", "ASK"):
            host, _, port = text.rpartition(" ")[2].rpartition(":")
            place = (host or link.place[0], int(port))
            if word == "ASK":
                return place
            self._slots[slot] = place
            self.moved()
        elif word == "NOSCRIPT":
            await self._prepare(link)
        elif word == "READONLY":
            link.close("Redis is no master any more")
            await asyncio.sleep(_PAUSE_S)
        elif word in _NOT_NOW or text.startswith(_SPLIT):
            self.moved()
            await asyncio.sleep(_PAUSE_S)
        else:
            raise BrokerError(f"Redis refuses: {text}") from None
        return None


def _info(answer: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in answer.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in pairs}


def _word(error: ResponseError) -> str:
    """Return the word an error began with; the library makes classes of some and cuts the word off."""
    for kind, word in _WORDS:
        if isinstance(error, kind):
            return word
    return str(error).partition(" ")[0]


def _ignore(reply: Reply) -> None:
    """Hear an answer that says nothing."""
