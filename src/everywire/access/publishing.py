"""Publishing: the one way into the log for clients of every wire.

First whether they may, then whether they are too fast, then what the application says, then the log. When
nothing must be asked it is all done within the call. Publications of one client to one channel keep their
order even when the application takes its time.

Whoever has an API key, the server API and the application itself are operators: no quota counts for
them, and the application is not asked about what it knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

from everywire.access.authority import Authority
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import Action
from everywire.access.quotas import Quotas
from everywire.brokers.base import Appended
from everywire.codecs.json_text import check_json, dump
from everywire.core import codes
from everywire.core.errors import BadRequest, BrokerBusy, EverywireError, TooLarge
from everywire.core.limits import Limits
from everywire.core.publication import JSON, Draft
from everywire.hub.hub import Hub

__all__ = ["Publishing", "make_draft"]

Done = Callable[[Appended | EverywireError], None]

_log: Final = logging.getLogger("everywire.access")


def make_draft(
    channel: str,
    data: bytes,
    limits: Limits,
    *,
    content_type: str = JSON,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    key: str | None = None,
) -> Draft:
    """Check data and make a draft of it; raise `BadRequest` or `TooLarge`."""
    if len(data) > limits.max_body_bytes:
        raise TooLarge(f"a publication is at most {limits.max_body_bytes} bytes")
    if content_type == JSON:
        try:
            check_json(data)
        except ValueError as error:
            raise BadRequest(
                f"the data is not JSON ({str(error)[:100]}); for other data name its Content-Type"
            ) from None
    fingerprint = b""
    if key is not None:
        digest = blake2b(digest_size=16)
        for part in (content_type, event or "", dump(tags or {}).decode()):
            digest.update(part.encode() + b"\0")
        digest.update(data)
        fingerprint = digest.digest()
    return Draft(channel, data, content_type, event, tags, None, key, fingerprint)


class _Verdict:
    """What the authority said, if it said so at once."""

    __slots__ = ("error", "is_known")

    def __init__(self) -> None:
        self.is_known = False
        self.error: EverywireError | None = None

    def __call__(self, error: EverywireError | None) -> None:
        self.is_known = True
        self.error = error


class _Waiting(NamedTuple):
    """A publication that somebody has to be asked about."""

    caller: Caller
    draft: Draft
    done: Done


class Publishing:
    """Lets clients publish: permission, quota, the application's hook, then the log."""

    def __init__(self, hub: Hub, authority: Authority, quotas: Quotas, hooks: Hooks, limits: Limits) -> None:
        self._hub = hub
        self._authority = authority
        self._quotas = quotas
        self._hooks = hooks
        self._limits = limits
        self._lanes: dict[tuple[Caller, str], deque[_Waiting]] = {}
        self._held: dict[Caller, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def publish(self, caller: Caller, draft: Draft, done: Done) -> bool:
        """Publish a draft of a client; ``done`` is called once, with where it stands or an error.

        Returns False when too much is unfinished: then pause this publisher's input until one of its
        publications is done. Errors: 101 and 103 (not allowed), 111 (`TooManyRequests`), 124 (busy), and
        what the application says.
        """
        is_asked = self._hooks.publish is not None and not caller.identity.may_all
        if not is_asked and (not self._lanes or (caller, draft.channel) not in self._lanes):
            verdict = _Verdict()
            self._authority.authorize(caller.identity, Action.PUBLISH, (draft.channel,), verdict)
            if verdict.is_known:
                try:
                    self._check(caller, draft, verdict.error)
                except EverywireError as error:
                    done(error)
                    return True
                return self._hub.publish(draft, done)
            # It will be known later; what is asked again then is the same question, asked once.
        return self._hold(_Waiting(caller, draft, done))

    def _check(self, caller: Caller, draft: Draft, error: EverywireError | None) -> None:
        if error is not None:
            raise error
        if not caller.identity.may_all:
            self._quotas.check_publish(caller, draft.channel)

    def _hold(self, waiting: _Waiting) -> bool:
        caller, channel = waiting.caller, waiting.draft.channel
        held = self._held.get(caller, 0) + 1
        if held > 2 * self._limits.max_publishing:
            waiting.done(BrokerBusy("too many publications of this client wait to be judged"))
            return False
        self._held[caller] = held
        lane = self._lanes.get((caller, channel))
        if lane is None:
            lane = self._lanes[caller, channel] = deque()
            lane.append(waiting)
            task = asyncio.get_running_loop().create_task(self._work(caller, channel, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            lane.append(waiting)
        return held < self._limits.max_publishing

    async def _work(self, caller: Caller, channel: str, lane: deque[_Waiting]) -> None:
        """Judge what waits in a lane, in order, until nothing does."""
        while lane:
            waiting = lane.popleft()
            try:
                draft = await self._judge(waiting)
            except EverywireError as error:
                waiting.done(error)
            except Exception:  # a task's top: nothing of the application's fault reaches the client
                _log.exception("publishing to %s failed", channel)
                waiting.done(EverywireError(code=codes.INTERNAL))
            else:
                self._hub.publish(draft, waiting.done)
            left = self._held[caller] - 1
            if left:
                self._held[caller] = left
            else:
                del self._held[caller]
        del self._lanes[caller, channel]

    async def _judge(self, waiting: _Waiting) -> Draft:
        """Return what is to be published; raise what refuses it."""
        caller, draft, _ = waiting
        future: asyncio.Future[EverywireError | None] = asyncio.get_running_loop().create_future()

        def judged(error: EverywireError | None) -> None:
            if not future.done():
                future.set_result(error)

        self._authority.authorize(caller.identity, Action.PUBLISH, (draft.channel,), judged)
        self._check(caller, draft, await future)
        hook = self._hooks.publish
        if hook is None or caller.identity.may_all:
            return draft
        try:
            async with asyncio.timeout(self._limits.hook_timeout_s):
                changed = await hook(caller, draft)
        except TimeoutError:
            raise EverywireError("the application did not answer in time", code=codes.INTERNAL) from None
        return draft if changed is None else changed

    async def close(self) -> None:
        """End what waits; it is told nothing any more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
