"""Producers: which runs there are, that each runs once, and how long they are kept.

A run is claimed in the broker's store under its channel's name, by a value that is put once and renewed
while it runs: of several requests on several nodes one begins it, and when its node dies the claim runs
out. Its log is kept whole by `everywire.brokers.base.Log.keep`, renewed likewise, until its end and a grace.

A producer registered for a pattern is begun by the first reader that comes without a position, on
whatever wire. A reader that returns with one begins it only if the store has lost what it had read;
and if the run's node died meanwhile, the reader is told the end of the run.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import msgspec

from everywire.brokers.base import Head, Page
from everywire.core import codes
from everywire.core.errors import BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.names import check_name
from everywire.core.position import Place
from everywire.core.publication import OVERHEAD_BYTES, Draft
from everywire.core.settings import Window
from everywire.handlers.functions import takes
from everywire.handlers.patterns import Patterns
from everywire.handlers.run import DistantRun, LocalRun, Run
from everywire.handlers.runs import END, End, Record, Status, discard
from everywire.hub.called import called
from everywire.hub.hub import Hub

__all__ = ["Producers"]

_log = logging.getLogger("everywire.handlers")

_CANCEL: Final = "run.cancel"
_TRIES: Final = 3
_REMEMBERED: Final = 10_000
_LOOK_S: Final = 10.0
"""A returning reader's channel is looked at so often at most."""
_SETTLE_S: Final = 5.0


class _Order(msgspec.Struct, frozen=True):
    """Another node wants a run cancelled."""

    channel: str
    id: str
    reason: str


class Producers:
    """The runs of one node, and the way to those of the others."""

    def __init__(self, limits: Limits) -> None:
        self.begun = 0
        """Runs begun on this node."""
        self.ended: dict[Status, int] = {"done": 0, "failed": 0, "cancelled": 0}
        self._limits = limits
        self._patterns: Patterns[Callable[..., Any]] = Patterns()
        self._hub: Hub | None = None
        self._is_closing = False
        self._runs: dict[str, LocalRun] = {}
        self._kept_bytes = 0
        """What all of them cost their logs."""
        self._claims: dict[str, asyncio.Task[Run]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beginning: set[str] = set()
        """Channels that a reader has made begin, or looked at."""
        self._looked: OrderedDict[str, float] = OrderedDict()

    # -- life ---------------------------------------------------------------------

    def start(self, hub: Hub) -> None:
        """Begin; after `Hub.start`."""
        self._hub = hub
        hub.on_ask(_CANCEL, self._asked_to_cancel)
        if len(self._patterns):
            hub.on_read = self._read
        self._spawn(self._renew_always(), "renewal of runs")

    async def close(self) -> None:
        """End all runs, telling their readers; before `Hub.close`."""
        if self._hub is None:
            return
        self._hub.on_read = None
        self._is_closing = True
        for run in self._running():
            run.stop(End("failed", EverywireError(code=codes.SHUTDOWN)))
        ending = [run.task for run in self._running() if run.task is not None]
        if ending:
            await asyncio.wait(ending, timeout=_SETTLE_S)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._runs.clear()
        self._kept_bytes = 0
        self._hub = None
        self._is_closing = False

    def statistics(self) -> dict[str, int]:
        """Return what there is on this node at this moment."""
        return {"running": len(self._running()), "kept": len(self._runs), "kept_bytes": self._kept_bytes}

    def add(self, pattern: str, function: Callable[..., Any]) -> None:
        """Let a function make the runs of the channels of a pattern: ``function(channel)``, or of nothing."""
        takes(function, ("channel",), f"produce {pattern!r}")
        self._patterns.add(pattern, function)
        if self._hub is not None:
            self._hub.on_read = self._read

    def _running(self) -> list[LocalRun]:
        return [run for run in self._runs.values() if run.status == "running"]

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._own(task)
        return task

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, EverywireError):  # those went to whoever asked
            _log.error("%s failed", task.get_name(), exc_info=error)

    # -- beginning -------------------------------------------------------------------

    async def run(
        self, channel: str, source: Any, *, restart: bool = False, grace_s: float | None = None
    ) -> Run:
        """Begin a run, or return the one that there is; see `everywire.application.Everywire.produce`."""
        check_name(channel)
        if self._hub is None or self._is_closing:
            await discard(source)
            raise EverywireError("this server is not running", code=codes.NOT_AVAILABLE)
        standing = self._standing(channel)
        if standing is not None and not (restart and standing.status != "running"):
            await discard(source)
            return standing
        claim = self._claims.get(channel)
        if claim is not None:
            await discard(source)
        else:
            grace_s = self._limits.run_grace_s if grace_s is None else grace_s
            claim = self._spawn(self._claim(channel, source, restart, grace_s), f"claim of {channel}")
            self._claims[channel] = claim
            claim.add_done_callback(lambda _: self._claims.pop(channel, None))
        # Whoever waits may be cancelled; the claim is everybody's.
        return await asyncio.shield(claim)

    async def find(self, channel: str) -> Run | None:
        """Return the run of a channel, if it has one."""
        standing = self._standing(check_name(channel))
        if standing is not None:
            return standing
        record = await self._look(channel)
        return None if record is None else DistantRun(channel, record, self._cancel_there, self._look)

    def _standing(self, channel: str) -> LocalRun | None:
        """Return the run of this node that a channel has, if it is not over yet."""
        run = self._runs.get(channel)
        if run is None or run.ended_s is None:
            return run
        if asyncio.get_running_loop().time() < run.ended_s + run.grace_s:
            return run
        self._drop(run)
        return None

    def _drop(self, run: LocalRun) -> None:
        if self._runs.get(run.channel) is run:
            del self._runs[run.channel]
            self._kept_bytes -= run.cost_bytes

    async def _claim(self, channel: str, source: Any, restart: bool, grace_s: float) -> Run:
        hub = self._started()
        try:
            if len(self._running()) >= self._limits.max_runs:
                raise EverywireError("too many producers run here", code=codes.BUSY)
            run = LocalRun(hub, channel, source, self._limits, grace_s, self._may_grow)
            standing = await self._put_once(channel, run.record, restart)
            if standing is not None:
                await discard(source)
                return DistantRun(channel, standing, self._cancel_there, self._look)
            try:
                await self._keep(run, anew=True)
            except EverywireError:
                await hub.broker.store.take(_key(channel))
                raise
        except BaseException:
            await discard(source)
            raise
        old = self._runs.get(channel)
        if old is not None:
            self._drop(old)
        self._runs[channel] = run
        self.begun += 1
        self._own(run.start(self._ended))
        return run

    async def _put_once(self, channel: str, record: Record, restart: bool) -> Record | None:
        """Claim a channel; return the record of the run that has it, if there is one that stays."""
        store = self._started().broker.store
        for _ in range(_TRIES):
            found = await store.put_once(_key(channel), msgspec.json.encode(record), self._limits.run_lease_s)
            if found is None:
                return None
            standing = _decode(found)
            if standing is not None and (standing.status == "running" or not restart):
                return standing
            # Of several that begin anew one takes the old record away, and only one puts the next.
            await store.take(_key(channel))
        raise BrokerError(f"the run of channel {channel} is fought for")

    # -- keeping ------------------------------------------------------------------------

    def _window(self) -> Window:
        limits = self._limits
        count = limits.max_run_publications + 1
        # By bytes it is the run that stops: the mark of its end must have room, too.
        size = limits.max_run_bytes + count * OVERHEAD_BYTES + limits.max_body_bytes
        return Window(count, size, max_age_s=2 * limits.max_run_s + limits.run_grace_s)

    async def _keep(self, run: LocalRun, *, anew: bool = False, ttl_s: float | None = None) -> Head:
        ttl_s = run.grace_s + self._limits.run_lease_s if ttl_s is None else ttl_s
        log = self._started().broker.log
        head: Head = await called(partial(log.keep, run.channel, self._window(), ttl_s, anew=anew))
        return head

    def _may_grow(self, cost_bytes: int) -> bool:
        """Say whether the runs of this node may grow; those that ended longest ago give way."""
        most = int(self._limits.log_budget_bytes * self._limits.max_kept_share)
        while self._kept_bytes + cost_bytes > most:
            ended = [run for run in self._runs.values() if run.ended_s is not None]
            if not ended:
                return False
            oldest = min(ended, key=lambda run: run.ended_s or 0.0)
            self._drop(oldest)
            self._spawn(self._forget(oldest), f"end of the run of {oldest.channel}")
        self._kept_bytes += cost_bytes
        return True

    async def _forget(self, run: LocalRun) -> None:
        try:
            await self._keep(run, ttl_s=0.0)
            await self._started().broker.store.take(_key(run.channel))
        except EverywireError as error:
            _log.warning("the run of channel %s stays until its time is over: %s", run.channel, error)

    async def _ended(self, run: LocalRun, status: Status) -> None:
        """Keep a run that ended for its grace."""
        self.ended[status] += 1
        record = msgspec.structs.replace(run.record, status=status)
        try:
            await self._keep(run, ttl_s=run.grace_s)
            store = self._started().broker.store
            await store.put(_key(run.channel), msgspec.json.encode(record), run.grace_s)
        except EverywireError as error:
            _log.warning("the run of channel %s may be forgotten early: %s", run.channel, error)

    async def _renew_always(self) -> None:
        while True:
            await asyncio.sleep(self._limits.run_lease_s / 3)
            for run in list(self._runs.values()):
                if run.status == "running":
                    try:
                        await self._renew(run)
                    except EverywireError as error:
                        _log.warning("the claim on channel %s was not renewed: %s", run.channel, error)
                else:
                    self._standing(run.channel)

    async def _renew(self, run: LocalRun) -> None:
        store = self._started().broker.store
        key, value, ttl_s = _key(run.channel), msgspec.json.encode(run.record), self._limits.run_lease_s
        found = await store.put_once(key, value, ttl_s)
        standing = None if found is None else _decode(found)
        if standing is not None and standing.id != run.id:
            # This node was not heard of for so long that another one has begun.
            _log.warning("another node makes the run of channel %s now", run.channel)
            run.stop(End("failed", is_told=False))
            self._drop(run)
        elif run.status == "running":
            if found is not None:
                await store.put(key, value, ttl_s)
            await self._keep(run)

    def _started(self) -> Hub:
        if self._hub is None:
            raise EverywireError(code=codes.SHUTDOWN)
        return self._hub

    # -- on other nodes -------------------------------------------------------------------

    async def _look(self, channel: str) -> Record | None:
        found = await self._started().broker.store.get(_key(channel))
        return None if found is None else _decode(found)

    def _cancel_there(self, run: DistantRun, reason: str) -> Awaitable[None]:
        return self._spawn(self._ask_to_cancel(run, reason), f"cancelling of the run of {run.channel}")

    async def _ask_to_cancel(self, run: DistantRun, reason: str) -> None:
        order = msgspec.json.encode(_Order(run.channel, run.id, reason))
        timeout_s = self._limits.node_answer_timeout_s
        await self._started().broker.control.ask(run.record.node, _CANCEL, order, timeout_s)

    async def _asked_to_cancel(self, payload: bytes, node: str) -> bytes:
        order = msgspec.json.decode(payload, type=_Order)
        run = self._runs.get(order.channel)
        if run is not None and run.id == order.id:
            run.cancel(order.reason)
        return b""

    # -- begun by readers ---------------------------------------------------------------------

    def _read(self, channel: str, place: Place | None) -> None:
        """Hear that a channel is read."""
        function = self._patterns.find(channel)
        if function is None or channel in self._beginning or self._standing(channel) is not None:
            return
        if channel in self._claims or (place is not None and not self._is_due(channel)):
            return
        self._beginning.add(channel)
        task = self._spawn(self._begin(channel, function, place), f"beginning of {channel}")
        task.add_done_callback(lambda _: self._beginning.discard(channel))

    def _is_due(self, channel: str) -> bool:
        now_s = asyncio.get_running_loop().time()
        looked = self._looked
        if now_s - looked.get(channel, -_LOOK_S) < _LOOK_S:
            return False
        looked[channel] = now_s
        looked.move_to_end(channel)
        if len(looked) > _REMEMBERED:
            looked.popitem(last=False)
        return True

    async def _begin(self, channel: str, function: Callable[..., Any], place: Place | None) -> None:
        try:
            if place is not None and (await self._head(channel)).epoch == place.epoch:
                await self._bury(channel)
            else:
                arguments = (channel,)[: takes(function, ("channel",), "produce")]
                await self.run(channel, partial(function, *arguments))
        except EverywireError as error:
            _log.warning("the producer of channel %s was not begun: %s", channel, error)
            if self._is_due(channel) and self._hub is not None:
                mark = Draft(channel, End("failed", error).data(0), event=END)
                self._hub.publish(mark, lambda _: None)

    async def _head(self, channel: str) -> Head:
        heads = await called(partial(self._started().broker.log.heads, (channel,)))
        head: Head = heads[channel]
        return head

    async def _bury(self, channel: str) -> None:
        """Tell the end of a run whose node died: nobody claims it, and its mark is missing."""
        if await self._unfinished(channel) is None:
            return
        hub = self._started()
        record = msgspec.json.encode(Record(secrets.token_hex(8), hub.broker.node, "failed"))
        if await hub.broker.store.put_once(_key(channel), record, self._limits.run_grace_s) is not None:
            return  # it lives, or another node tells of its end
        head = await self._unfinished(channel)
        if head is None:
            await hub.broker.store.take(_key(channel))
            return
        error = EverywireError("the server that made this is gone", code=codes.INTERNAL)
        data = End("failed", error).data(head.last - head.first + 1)
        await called(partial(hub.publish, Draft(channel, data, event=END)))
        window, grace_s = self._window(), self._limits.run_grace_s
        await called(partial(hub.broker.log.keep, channel, window, grace_s))

    async def _unfinished(self, channel: str) -> Head | None:
        """Return where a channel stands that has items of a run, but no mark of its end."""
        head = await self._head(channel)
        page: Page = await called(partial(self._started().broker.log.read, channel, head.last - 1, 1, 1))
        return head if page.publications and page.publications[-1].event != END else None


def _key(channel: str) -> str:
    return f"run:{channel}"


def _decode(value: bytes) -> Record | None:
    """Read a record; what another version wrote is none."""
    try:
        return msgspec.json.decode(value, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
