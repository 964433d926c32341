"""The log over JetStream: `everywire.brokers.base.Log`, put together from its parts, and the hints.

The engine tells of a message after it stored it (``republish``), under a subject of its own, to those who
subscribed to it: each node subscribes for the channels that have readers there. A hint carries the message
whole, small records with it. What subscribers to the log's own subjects would see are attempts, also those
that lost the race.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from everywire.brokers.base import Appended, Head, Page
from everywire.brokers.nats.channels import Channel
from everywire.brokers.nats.link import Msg
from everywire.brokers.nats.message import Kept, Message, State
from everywire.brokers.nats.parts import Parts
from everywire.brokers.nats.reading import Reading
from everywire.brokers.nats.upkeep import Upkeep
from everywire.brokers.nats.writer import Writer, following
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError
from everywire.core.publication import Draft
from everywire.core.settings import Window

__all__ = ["NatsLog"]

_MAX_ASKING: Final = 10_000
"""Reads and the like that are not answered yet; more are refused."""
_MAX_FOLLOWED: Final = 1_000
_FOLLOWED_S: Final = 10.0
"""How long after the last lost race a channel's hints are heard."""
_log: Final = logging.getLogger("everywire.brokers")
_T = TypeVar("_T")


class NatsLog:
    """One node's."""

    is_local = False

    def __init__(self, parts: Parts) -> None:
        self.upkeep = Upkeep(parts)
        self.writer = Writer(parts, self.upkeep)
        self.upkeep.writer = self.writer
        self.writer.lost_a_race = self._follow
        self._followed: set[Channel] = set()
        self._reading = Reading(parts)
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._is_closed = False

    # -- the calls --------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append, with what else waits on each channel."""
        self.writer.append(drafts, done)

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read what is kept after an offset."""
        self._ask(partial(self._reading.page, channel, after, max_publications, max_bytes), done)

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where channels stand."""
        self._ask(partial(self._reading.heads, tuple(channels)), done)

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop the publications of a channel."""
        self._ask(partial(self._trim, channel), done)

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by a window of its own."""
        self._ask(partial(self._keep, channel, window, ttl_s, anew), done)

    def _ask(
        self, ask: Callable[[], Coroutine[Any, Any, _T]], done: Callable[[_T | EverywireError], None]
    ) -> None:
        if self._is_closed or len(self._tasks) >= _MAX_ASKING:
            done(
                BrokerBusy("too much is asked of the broker") if self._tasks else BrokerError("it is closed")
            )
            return
        task = asyncio.get_running_loop().create_task(self._answer(ask, done), name="ask NATS")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self, ask: Callable[[], Coroutine[Any, Any, _T]], done: Callable[[_T | EverywireError], None]
    ) -> None:
        answer: _T | EverywireError
        timeout_s = self._parts.limits.broker_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._parts.link.ready(timeout_s)
                # Who asks where a channel stands goes on from there by hints: these must be on before.
                await self._parts.link.settle()
                answer = await ask()
        except EverywireError as error:
            answer = error
        except TimeoutError:
            answer = BrokerError("the broker did not answer in time")
        except asyncio.CancelledError:
            done(BrokerError("this node is leaving"))
            raise
        except Exception:
            # The top of a task: whoever waits hears that it went wrong, and our log hears how.
            _log.exception("a question to NATS failed")
            answer = BrokerError("the question could not be answered")
        done(answer)

    async def _trim(self, name: str) -> Head:
        parts = self._parts

        def make(channel: Channel, _: int) -> State | None:
            if not channel.exists:
                return None
            state = following(channel, parts.clock_ms(), parts.epochs.epoch)
            if state.first > state.last:
                return None
            return msgspec.structs.replace(state, first=state.last + 1, first_seq=channel.seq + 1)

        channel = parts.channels.of(name)
        await self.writer.change(channel, make)
        return await self._reading.head(channel)

    async def _keep(self, name: str, window: Window, ttl_s: float, anew: bool) -> Head:
        parts = self._parts

        def make(channel: Channel, forgotten: int) -> State:
            now_ms, epoch = parts.clock_ms(), parts.epochs.epoch
            if channel.exists:
                state = following(channel, now_ms, epoch)
            else:
                state = State(epoch, forgotten, forgotten + 1, channel.seq + 1, forgotten)
            kept = Kept(
                window.max_publications,
                window.max_bytes,
                int(window.max_age_s * 1000),
                now_ms + int(ttl_s * 1000),
            )
            state = msgspec.structs.replace(state, kept=kept)
            if anew:
                state = msgspec.structs.replace(
                    state,
                    first=state.last + 1,
                    first_seq=channel.seq + 1,
                    began=state.last,
                    began_ms=0,
                    cost_bytes=0,
                )
            return state

        channel = parts.channels.of(name)
        if anew:
            channel.floor = 0
        await self.writer.change(channel, make, is_made=True)
        return await self._reading.head(channel)

    # -- hints -----------------------------------------------------------------------------

    def watch(self, channel: str) -> None:
        """Begin to tell the sink of a channel."""
        parts = self._parts
        known = parts.channels.of(channel)
        known.watched += 1
        if known.watched == 1:
            known.told = 0
            self._listen(known)

    def unwatch(self, channel: str) -> None:
        """Stop to tell the sink of a channel."""
        parts = self._parts
        known = parts.channels.of(channel)
        known.watched = max(known.watched - 1, 0)
        if not known.watched:
            self._listen(known)

    def _listen(self, channel: Channel) -> None:
        """Hear the hints of a channel, or no longer, as they are needed now."""
        heard = partial(self._hinted, channel) if channel.watched or channel.is_followed else None
        self._parts.link.want(self._parts.names.hint_subject(channel.name), heard)

    def _follow(self, channel: Channel) -> None:
        """Hear the hints of a channel that other nodes write to, too, as long as they do."""
        if channel.is_followed or len(self._followed) >= _MAX_FOLLOWED:
            return
        channel.is_followed = True
        self._followed.add(channel)
        self._listen(channel)

    def sweep(self) -> None:
        """Do a bounded part of the housekeeping, in the background."""
        end_s = asyncio.get_running_loop().time() - _FOLLOWED_S
        for channel in [one for one in self._followed if one.contended_s < end_s]:
            channel.is_followed = False
            self._followed.discard(channel)
            self._listen(channel)
        self.upkeep.sweep()

    def _hinted(self, channel: Channel, msg: Msg) -> None:
        parts = self._parts
        if not msg.data:  # another node asks whether anybody watches
            if msg.reply and channel.watched and len(self._tasks) < _MAX_ASKING:
                self._do(parts.link.publish(msg.reply, b"1"))
            return
        message = Message.decode(msg.data)
        if message.writer != parts.writer_name:
            parts.counters.hints_received += 1
        seq = int((msg.headers or {}).get("Nats-Sequence", 0))
        if not seq or not (channel.watched or channel.is_followed):
            return
        is_refreshing = self._refreshing is not None and not self._refreshing.done()
        if message.state.epoch != parts.epochs.epoch and not is_refreshing:
            # Its writer knows of another epoch than this node; who is right, the store says.
            self._refreshing = self._do(parts.epochs.refresh())
        if seq > channel.seq:
            parts.take(channel, seq, message)
            channel.verified_s = asyncio.get_running_loop().time()
        parts.tell(channel, message)

    def _do(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that nobody waits for."""

        async def do() -> None:
            try:
                await what
            except BrokerError as error:
                _log.info("NATS: %s", error.sentence)

        task = asyncio.get_running_loop().create_task(do(), name="in passing at NATS")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- life ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Fail what is unfinished."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.upkeep.close()
        await self.writer.close()
