"""Publishing: the one way into the log for clients of every wire.

First whether they may, then whether they are too fast, then what the application says, then the log. When
nothing must be asked it is all done within the call. Publications of one client to one channel keep their
order even when the application takes its time; those that wait are bounded, for each client and for all.

Operators go round quotas and hooks, for the application need not be asked about what it knows: whoever has an
API key (`Identity.may_all`) here, the server API and `Everywire.publish` past this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from everywire.access.authority import Authority
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import Action
from everywire.access.quotas import Quotas
from everywire.brokers.base import Appended
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import JSON, Draft
from everywire.hub.called import called
from everywire.hub.hub import Hub

__all__ = ["Publishing"]

Done = Callable[[Appended | EverywireError], None]

_log: Final = logging.getLogger("everywire.access")


class _Verdict:
    """What the authority said, if it said so at once."""

    __slots__ = ("error", "is_known")

    def __init__(self) -> None:
        self.is_known = False
        self.error: EverywireError | None = None

    def __call__(self, error: EverywireError | None) -> None:
        self.is_known = True
        self.error = error


class _Waiting:
    """A publication that somebody has to be asked about, or that waits behind one."""

    __slots__ = ("_done", "caller", "draft", "finished", "is_counted", "is_done", "size")

    def __init__(self, caller: Caller, draft: Draft, done: Done, is_counted: bool) -> None:
        self.caller = caller
        self.draft = draft
        self.is_counted = is_counted
        """Whether its quota was taken."""
        self.is_done = False
        self.finished: asyncio.Event | None = None
        self.size = len(draft.data)
        self._done = done

    def done(self, result: Appended | EverywireError) -> None:
        """Tell the client, once."""
        if self.is_done:
            return
        self.is_done = True
        try:
            self._done(result)
        except Exception:  # the next one of the lane must not suffer for it
            _log.exception("who published to %s failed", self.draft.channel)
        if self.finished is not None:
            self.finished.set()


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
        self._held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def publish(self, caller: Caller, draft: Draft, done: Done) -> bool:
        """Publish a draft of a client; ``done`` is called once, with where it stands or an error.

        Returns False when too much is unfinished: then pause this publisher's input until one of its
        publications is done. Errors: 101 and 103 (not allowed), 111 (`TooManyRequests`), 124 (busy), and
        what the application says.
        """
        verdict = _Verdict()
        self._authority.authorize(caller.identity, Action.PUBLISH, (draft.channel,), verdict)
        if verdict.is_known:
            # Who is refused hears it at once, and takes no place among those who wait.
            try:
                self._check(caller, draft, verdict.error)
            except EverywireError as error:
                done(error)
                return True
            if (self._hooks.publish is None or caller.identity.may_all) and (
                not self._lanes or (caller, draft.channel) not in self._lanes
            ):
                return self._hub.publish(draft, done)
        # Else it will be known later; what is asked again then is the same question, asked once.
        return self._hold(_Waiting(caller, draft, done, is_counted=verdict.is_known))

    def _check(self, caller: Caller, draft: Draft, error: EverywireError | None) -> None:
        if error is not None:
            raise error
        self._quotas.check_publish(caller, draft.channel)

    def _hold(self, waiting: _Waiting) -> bool:
        limits = self._limits
        caller, channel = waiting.caller, waiting.draft.channel
        held = self._held.get(caller, 0) + 1
        if held > 2 * limits.max_publishing:
            waiting.done(BrokerBusy("too many publications of this client wait to be judged"))
            return False
        held_bytes = self._held_bytes + waiting.size
        lane = self._lanes.get((caller, channel))
        if (self._held and held_bytes > limits.max_publishing_bytes) or (
            lane is None and len(self._lanes) >= limits.max_judging
        ):
            waiting.done(BrokerBusy("too many publications wait to be judged"))
            return held == 1  # with none of its own on the way, nothing would tell it to go on
        self._held[caller] = held
        self._held_bytes = held_bytes
        if lane is None:
            lane = self._lanes[caller, channel] = deque()
            lane.append(waiting)
            task = asyncio.get_running_loop().create_task(self._work(caller, channel, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            lane.append(waiting)
        return held < limits.max_publishing

    async def _work(self, caller: Caller, channel: str, lane: deque[_Waiting]) -> None:
        """Judge what waits in a lane, in order, until nothing does."""
        try:
            while lane:
                waiting = lane.popleft()
                try:
                    await self._finish(waiting)
                finally:
                    self._let_go(waiting)
        finally:
            del self._lanes[caller, channel]
            for left in lane:  # it was cancelled: the server stops
                self._let_go(left)

    def _let_go(self, waiting: _Waiting) -> None:
        self._held_bytes -= waiting.size
        left = self._held[waiting.caller] - 1
        if left:
            self._held[waiting.caller] = left
        else:
            del self._held[waiting.caller]

    async def _finish(self, waiting: _Waiting) -> None:
        """Judge one publication, and hand it to the log."""
        try:
            draft = await self._judge(waiting)
            waiting.finished = asyncio.Event()
            if not self._hub.publish(draft, waiting.done):
                # The store is behind: what follows waits here, and the client's input is paused when it is
                # much.
                await waiting.finished.wait()
        except EverywireError as error:
            waiting.done(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _log.error("what judges a publication to %s was cancelled", waiting.draft.channel)
            waiting.done(EverywireError(code=codes.INTERNAL))
        except Exception:  # a task's top: nothing of the application's fault reaches the client
            _log.exception("publishing to %s failed", waiting.draft.channel)
            waiting.done(EverywireError(code=codes.INTERNAL))

    async def _judge(self, waiting: _Waiting) -> Draft:
        """Return what is to be published; raise what refuses it."""
        caller, draft = waiting.caller, waiting.draft
        # Whoever waited may have been shut out meanwhile.
        await called(partial(self._authority.authorize, caller.identity, Action.PUBLISH, (draft.channel,)))
        if not waiting.is_counted:
            self._quotas.check_publish(caller, draft.channel)
        hook = self._hooks.publish
        if hook is None or caller.identity.may_all:
            return draft
        try:
            async with asyncio.timeout(self._limits.hook_timeout_s):
                changed = await hook(caller, draft)
        except TimeoutError:
            _log.error("the application's publish did not answer in time")
            raise EverywireError("the application did not answer in time", code=codes.INTERNAL) from None
        return draft if changed is None else self._checked(changed)

    def _checked(self, draft: Draft) -> Draft:
        """Return what the application made of a draft, if readers can be given it."""
        if len(draft.data) > self._limits.max_body_bytes:
            raise ValueError("the publish hook made a publication that is larger than Limits.max_body_bytes")
        if draft.content_type == JSON:
            check_json(draft.data)  # every reader gets it inside other JSON
        return draft

    async def close(self) -> None:
        """End what waits; it is told nothing any more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
