"""JetStream, as far as it is used: messages over the link, without state.

Subjects and JSON are those of https://docs.nats.io/reference/reference-protocols/nats_api_reference as
nats-server 2.9 has them. A message is appended with `Nats-Expected-Last-Subject-Sequence` (compare and set),
found by direct get (2.9; any replica answers) or, where it must be the newest, by the leader; runs of
messages come through a consumer that lives for one page.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from everywire.brokers.nats.link import Link, Msg, NotThere, delivered
from everywire.core.errors import BrokerBusy, BrokerError

__all__ = ["Conflict", "Info", "Stored", "Streams"]

_WRONG_LAST_SEQUENCE: Final = 10071
_STREAM_NOT_FOUND: Final = 10059
_MESSAGE_NOT_FOUND: Final = 10037
_FULL: Final = frozenset({"maximum messages exceeded", "maximum bytes exceeded"})
_NS: Final = 1_000_000_000
_PAGE_LIFE_S: Final = 10
"""How long the engine keeps a consumer whose page was not asked for."""


class Conflict(BrokerError):
    """The subject's newest message is another than was expected; ``seq`` is its sequence, 0 for none."""

    def __init__(self, seq: int) -> None:
        super().__init__("somebody else wrote at the same time")
        self.seq = seq


class Stored(NamedTuple):
    """A message in a stream."""

    subject: str
    seq: int
    data: bytes


class Info(NamedTuple):
    """Where a stream stands."""

    created: str
    last_seq: int
    subjects: int


class Streams:
    """JetStream over a link; every call raises `BrokerError` when it gets no answer in time."""

    def __init__(self, link: Link, timeout_s: float, replicas: int) -> None:
        self.is_single = replicas == 1
        """Whether a stream has one replica, so that every get finds the newest."""
        self._link = link
        self._timeout_s = timeout_s
        self._replicas = replicas

    async def _api(self, subject: str, body: object = None) -> dict[str, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        msg = await self._link.request(f"$JS.API.{subject}", data, self._timeout_s)
        try:
            answer: dict[str, Any] = json.loads(msg.data)
        except ValueError:
            raise BrokerError("JetStream answered what is no JSON") from None
        error = answer.get("error")
        if error is None:
            return answer
        if error.get("err_code") in (_STREAM_NOT_FOUND, _MESSAGE_NOT_FOUND):
            raise NotThere(f"JetStream: {error.get('description')}")
        raise BrokerError(f"JetStream: {error.get('description')}")

    # -- streams ------------------------------------------------------------------

    async def info(self, stream: str) -> Info:
        """Return where a stream stands, by its leader; `NotThere` when there is none."""
        found = await self._api(f"STREAM.INFO.{stream}")
        state = found["state"]
        return Info(str(found["created"]), int(state["last_seq"]), int(state.get("num_subjects", 0)))

    async def make(self, stream: str, subject: str, more: Mapping[str, object]) -> None:
        """Make a stream; nothing is changed when there is one already."""
        config = {
            "name": stream,
            "subjects": [subject],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": self._replicas,
            "allow_direct": True,
            # Our own time is in the messages, and no message is known by an id: the least that is allowed.
            "duplicate_window": _NS // 10,
            **more,
        }
        try:
            await self._api(f"STREAM.CREATE.{stream}", config)
        except BrokerError:
            await self.info(stream)  # another node made it meanwhile, or it was set up by hand

    # -- messages --------------------------------------------------------------------

    async def append(
        self, subject: str, data: bytes, expected_seq: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Append a message and return its sequence; `Conflict` when the subject's newest is another than
        expected (0: none), `BrokerBusy` when the stream is full."""
        headers = None
        if expected_seq is not None:
            headers = {"Nats-Expected-Last-Subject-Sequence": str(expected_seq)}
        msg = await self._link.request(
            subject, data, self._timeout_s if timeout_s is None else timeout_s, headers
        )
        try:
            answer = json.loads(msg.data)
        except ValueError:
            raise BrokerError("JetStream acknowledged with what is no JSON") from None
        error = answer.get("error")
        if error is None:
            return int(answer["seq"])
        description = str(error.get("description"))
        if error.get("err_code") == _WRONG_LAST_SEQUENCE:
            raise Conflict(int(description.rpartition(" ")[2]))
        if description in _FULL:
            raise BrokerBusy("the engine holds as much as it may")
        raise BrokerError(f"JetStream did not take a message: {description}")

    async def last(self, stream: str, subject: str, *, is_newest: bool = False) -> Stored | None:
        """Return the newest message of a subject; by the leader if it must be the newest indeed."""
        if is_newest and not self.is_single:
            return await self._get_of_leader(stream, {"last_by_subj": subject})
        return _stored(
            await self._link.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", self._timeout_s)
        )

    async def next(self, stream: str, subject: str, seq: int) -> Stored | None:
        """Return the first message of a subject that has this sequence or a higher one."""
        return await self._get(stream, {"seq": seq, "next_by_subj": subject})

    async def at(self, stream: str, seq: int) -> Stored | None:
        """Return the message that has this sequence."""
        return await self._get(stream, {"seq": seq})

    async def _get(self, stream: str, what: Mapping[str, object]) -> Stored | None:
        data = json.dumps(what).encode()
        return _stored(await self._link.request(f"$JS.API.DIRECT.GET.{stream}", data, self._timeout_s))

    async def _get_of_leader(self, stream: str, what: Mapping[str, object]) -> Stored | None:
        try:
            found = (await self._api(f"STREAM.MSG.GET.{stream}", what))["message"]
        except NotThere as error:
            if "no message found" in error.sentence:
                return None
            raise
        return Stored(found["subject"], int(found["seq"]), base64.b64decode(found.get("data", "")))

    async def purge(self, stream: str, subject: str, before_seq: int) -> None:
        """Drop the messages of a subject whose sequence is below one."""
        await self._api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": before_seq})

    async def delete(self, stream: str, seq: int) -> None:
        """Drop one message, if it is there."""
        try:
            await self._api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        except NotThere:
            pass
        except BrokerError as error:
            if "no message found" not in error.sentence:
                raise

    # -- runs of messages -------------------------------------------------------------

    async def page(
        self, stream: str, subject: str, from_seq: int, max_messages: int, max_bytes: int = 0
    ) -> Sequence[Stored]:
        """Return messages of a subject from a sequence on, oldest first: so many, or so many bytes."""
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(from_seq, 1),
            "filter_subject": subject,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _PAGE_LIFE_S * _NS,
        }
        made = await self._api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        consumer, pending = str(made["name"]), int(made.get("num_pending", 0))
        try:
            return await self._fetch(stream, consumer, min(pending, max_messages), max_bytes)
        finally:
            # Nobody waits for this: the engine would drop it soon anyway.
            if self._link.is_up:
                await self._link.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}", b"")

    async def _fetch(self, stream: str, consumer: str, messages: int, max_bytes: int) -> Sequence[Stored]:
        found: list[Stored] = []
        while len(found) < messages:
            # Small portions first when bytes are what ends a page.
            portion = min(messages - len(found), 256 if not max_bytes or found else 32)
            got = await self._portion(stream, consumer, portion)
            found += got
            if len(got) < portion or (max_bytes and sum(len(one.data) for one in found) >= max_bytes):
                break
        return found

    async def _portion(self, stream: str, consumer: str, messages: int) -> Sequence[Stored]:
        found: list[Stored] = []
        done = asyncio.Event()

        refused = ""

        def heard(msg: Msg) -> None:
            nonlocal refused
            status = (msg.headers or {}).get("Status")
            if status is None:
                found.append(Stored(msg.subject, delivered(msg.reply)[1], msg.data))
            elif status not in ("404", "408"):  # these say that there are no more
                refused = status
            if status is not None or len(found) >= messages:
                done.set()

        inbox = self._link.collect(consumer, heard)
        try:
            body = json.dumps({"batch": messages, "no_wait": True}).encode()
            await self._link.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", body, inbox)
            async with asyncio.timeout(self._timeout_s):
                await done.wait()
        except TimeoutError:
            raise BrokerError("the broker did not deliver a page in time") from None
        finally:
            self._link.collect(consumer, None)
        if refused:
            raise BrokerError(f"JetStream did not deliver a page: {refused}")
        return found


def _stored(msg: Msg) -> Stored | None:
    headers = msg.headers or {}
    status = headers.get("Status")
    if status == "404":
        return None
    if status is not None:
        raise BrokerError(f"JetStream: {status} {headers.get('Description', '')}")
    try:
        return Stored(headers["Nats-Subject"], int(headers["Nats-Sequence"]), msg.data)
    except (KeyError, ValueError):
        raise BrokerError("JetStream answered a get without a sequence") from None
