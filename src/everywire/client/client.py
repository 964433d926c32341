"""The client: one connection for all channels, over whichever wire works, for as long as one wants.

It speaks the Centrifuge client protocol (version 2). A lost connection is made again with full jitter,
or when the server said so; subscriptions go on from their epoch and offset, on the same wire or another.
What the server refuses for good (a broken token, codes 3500 to 3999 and 4500 to 4999) ends it. For use
in one event loop; `everywire.client.sync` wraps it for code without one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from everywire.client.address import Address
from everywire.client.asking import fetch, tell
from everywire.client.choosing import Attempted
from everywire.client.connection import Connection
from everywire.client.errors import ClientError, CommandError, ConnectionLost, Refused
from everywire.client.http import HttpClient
from everywire.client.items import Received
from everywire.client.links import LINKS
from everywire.client.subscription import (
    MAX_QUEUED,
    Subscription,
    read_field,
    read_info,
    read_publication,
)
from everywire.codecs.centrifuge.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    HistoryRequest,
    PublishRequest,
    Push,
    RefreshRequest,
    Reply,
    RpcRequest,
    SendRequest,
    StreamPosition,
    SubRefreshRequest,
    Target,
)
from everywire.core import codes
from everywire.core.errors import BadRequest
from everywire.core.names import check_name
from everywire.core.position import Place

__all__ = ["Client"]

REQUEST_TIMEOUT_S: Final = 10.0
CLIMB_S: Final = 120.0
"""How often a client on a lesser wire tries the better ones again."""
RESUBSCRIBE_S: Final = 1.0

TokenSource = Callable[[], Awaitable[str]]


class Client:
    """A connection to an Everywire server. Use as an asynchronous context manager.

    Args:
        url: of the server: scheme (http, https, ws, wss), host, port, and a path it lives under.
        token: a connection token; or
        get_token: called for a new one whenever it is needed; asked again later when it fails, unless it
            raises `Refused`.
        headers: sent with every request, such as an API key's.
        data: anything JSON can say, for the application's connect hook.
        transports: names of `everywire.client.links.LINKS`, the best first.
        request_timeout_s: how long a command's reply may take.
        climb_s: how often a client on a lesser wire tries the better ones again.
        lost: hears why a connection ended and how many seconds the next attempt waits.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        get_token: TokenSource | None = None,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        transports: Sequence[str] = tuple(LINKS),
        tls: ssl.SSLContext | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        climb_s: float = CLIMB_S,
        lost: Callable[[str, float], None] | None = None,
    ) -> None:
        for name in transports:
            if name not in LINKS:
                raise BadRequest(f"{name!r} is no transport: expected some of {', '.join(LINKS)}")
        if not transports:
            raise BadRequest("expected at least one transport")
        self._address = Address.parse(url)
        self._headers = dict(headers or {})
        self._tls = tls
        self._token = token
        self._get_token = get_token
        self._data = data
        self._lost = lost
        self._connection = Connection(self, transports, request_timeout_s, climb_s)
        self._subscriptions: dict[str, Subscription] = {}
        self._server_side: dict[str, str] = {}
        self._refresh: asyncio.TimerHandle | None = None
        self.on_message: Callable[[Any], None] | None = None
        """Hears messages that the application sends to this client."""
        self.on_publication: Callable[[Received], None] | None = None
        """Hears publications of channels that the server subscribed this client to."""
        self.client_id = ""

    # -- life ---------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        """Connect."""
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self.close()

    @property
    def transport(self) -> str:
        """The wire that is in use; nothing while there is none."""
        return self._connection.transport

    @property
    def attempts(self) -> Sequence[Attempted]:
        """What was tried at the last choice of a wire, and why it was not taken."""
        return self._connection.attempts

    async def connect(self) -> None:
        """Connect, and wait until there is a connection; from then on it is kept.

        Raises `Refused` when the server refuses for good.
        """
        self._connection.start()
        try:
            await self._connection.live()
        except Refused:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect for good, and end all subscriptions."""
        if self._refresh is not None:
            self._refresh.cancel()
        await self._connection.close()

    # -- commands --------------------------------------------------------------------

    def channel(
        self,
        name: str,
        *,
        since: Place | None = None,
        join_leave: bool = False,
        get_token: TokenSource | None = None,
        data: Any = None,
        max_queued: int = MAX_QUEUED,
    ) -> Subscription:
        """Return a subscription of a channel, not subscribed yet; ``since`` is where to go on from."""
        return Subscription(
            self,
            check_name(name),
            since=since,
            join_leave=join_leave,
            get_token=get_token,
            data=data,
            max_queued=max_queued,
        )

    async def publish(self, channel: str, data: Any) -> None:
        """Publish what JSON can say. For the errors see `Connection.call`, also of what follows."""
        request = PublishRequest(channel=check_name(channel), data=_raw(data))
        await self._connection.call(Command(publish=request))

    async def rpc(self, method: str, data: Any = None) -> Any:
        """Call a method of the application and return its answer."""
        reply = await self._connection.call(Command(rpc=RpcRequest(method=method, data=_raw(data))))
        return None if reply.rpc is None else read_field(reply.rpc.data)

    async def send(self, data: Any) -> None:
        """Send a message to the application; there is no answer."""
        await self._connection.live()
        await self._connection.send([Command(send=SendRequest(data=_raw(data)))])

    async def presence(self, channel: str) -> dict[str, dict[str, Any]]:
        """Return who is in a channel, by client id."""
        reply = await self._connection.call(Command(presence=Target(channel=check_name(channel))))
        found = {} if reply.presence is None else reply.presence.presence
        return {client: read_info(info) for client, info in found.items()}

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        """Return how many clients and how many users are in a channel."""
        reply = await self._connection.call(Command(presence_stats=Target(channel=check_name(channel))))
        stats = reply.presence_stats
        return (0, 0) if stats is None else (stats.num_clients, stats.num_users)

    async def history(
        self, channel: str, *, limit: int = 0, since: Place | None = None, reverse: bool = False
    ) -> tuple[list[Received], Place]:
        """Return publications that are kept (``limit`` -1: all that one answer holds), and where the channel
        stands."""
        request = HistoryRequest(channel=check_name(channel), limit=limit, reverse=reverse)
        if since is not None:
            request.since = StreamPosition(offset=since.offset, epoch=since.epoch)
        result = (await self._connection.call(Command(history=request))).history
        if result is None:
            return [], Place("", 0)
        found = [read_publication(channel, result.epoch, publication) for publication in result.publications]
        return found, Place(result.epoch, result.offset)

    # -- what subscriptions ask (Owner) ---------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Subscribe now, or when there is a connection."""
        name = subscription.channel
        if self._subscriptions.setdefault(name, subscription) is not subscription:
            raise BadRequest(f"there is a subscription of {name} already")
        if self._connection.end is not None:
            raise self._connection.end
        if self._connection.is_live:
            self._connection.do(self._adjust(subscription))

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Leave on the server, if there is a connection."""
        if self._subscriptions.get(subscription.channel) is subscription:
            del self._subscriptions[subscription.channel]
        if self._connection.is_live:
            await self._adjust(subscription)

    async def _adjust(self, subscription: Subscription) -> None:
        """Subscribe or leave on the server until that is as it is wanted here; one step after the other."""
        if subscription.is_adjusting:
            return
        subscription.is_adjusting = True
        try:
            while subscription.is_followed or subscription.is_on_server:
                if not subscription.is_on_server:
                    await self._subscribe(subscription)
                elif subscription.is_followed and not subscription.has_dropped:
                    return
                else:
                    await self._leave(subscription)
        except ConnectionLost:
            # A connection that is gone follows nothing, and the next one begins anew; if it is there already,
            # it found this busy.
            if self._connection.is_live and subscription.is_followed:
                self._connection.do(self._subscribe_later(subscription))
        finally:
            subscription.is_adjusting = False

    async def _subscribe(self, subscription: Subscription) -> None:
        subscription.is_on_server = True
        try:
            if subscription.wants_token and subscription.get_token is not None:
                subscription.token = await fetch(subscription.get_token)
        except ConnectionLost:
            subscription.is_on_server = False
            raise
        except ClientError as error:
            subscription.is_on_server = False
            self._end_subscription(subscription, error)
            return
        if not subscription.is_followed:
            subscription.is_on_server = False
        # Another connection may have come meanwhile, too; then this one's turn is over.
        if subscription.is_on_server:
            await self._connection.send([self._subscribe_command(subscription)])

    async def _leave(self, subscription: Subscription) -> None:
        subscription.is_on_server = subscription.has_dropped = False
        try:
            await self._connection.call(Command(unsubscribe=Target(channel=subscription.channel)))
        except CommandError:
            pass  # the server has forgotten it already

    def _end_subscription(self, subscription: Subscription, error: ClientError) -> None:
        if self._subscriptions.get(subscription.channel) is subscription:
            del self._subscriptions[subscription.channel]
        subscription.end(error)

    def _subscribe_command(self, subscription: Subscription) -> Command:
        def take(reply: Reply) -> None:
            if self._subscriptions.get(subscription.channel) is not subscription:
                return
            if not subscription.is_followed:
                return  # it is being left again
            if reply.subscribe is not None:
                is_first = not subscription.is_subscribed
                subscription.subscribed(reply.subscribe)
                if is_first and reply.subscribe.expires:
                    self._expect_refresh_of(subscription, reply.subscribe.ttl)
            elif reply.error is not None and reply.error.code >= 0:
                error = CommandError(reply.error.message, reply.error.code, reply.error.temporary is True)
                self._not_subscribed(subscription, error)

        return Command(id=self._connection.expect(take), subscribe=subscription.request())

    def _not_subscribed(self, subscription: Subscription, error: CommandError) -> None:
        if error.number == codes.ALREADY_SUBSCRIBED.number:
            return
        has_expired = error.number == codes.TOKEN_EXPIRED.number and subscription.get_token is not None
        subscription.is_on_server = False
        if has_expired:
            subscription.token = ""
        if error.is_temporary or has_expired:
            self._connection.do(self._subscribe_later(subscription))
        else:
            self._end_subscription(subscription, error)

    async def _subscribe_later(self, subscription: Subscription) -> None:
        await asyncio.sleep(RESUBSCRIBE_S)
        await self._adjust(subscription)

    def _expect_refresh_of(self, subscription: Subscription, ttl_s: int) -> None:
        subscription.stop_refreshing()
        if ttl_s and subscription.get_token is not None:
            loop = asyncio.get_running_loop()
            subscription.refresh = loop.call_later(
                ttl_s, lambda: self._connection.do(self._refresh_subscription(subscription))
            )

    async def _refresh_subscription(self, subscription: Subscription) -> None:
        assert subscription.get_token is not None
        if not subscription.is_subscribed:
            return  # the next time it is, this is planned anew
        subscription.token = token = await fetch(subscription.get_token)
        request = SubRefreshRequest(channel=subscription.channel, token=token)
        result = (await self._connection.call(Command(sub_refresh=request))).sub_refresh
        if result is not None:
            self._expect_refresh_of(subscription, result.ttl)

    # -- what the connection asks (Delegate) ------------------------------------------------

    def http(self) -> HttpClient:
        """Return an HTTP client with a connection of its own."""
        return HttpClient(self._address, self._headers, self._tls)

    def connect_request(self) -> ConnectRequest:
        """Return what is said to connect."""
        data = UNSET if self._data is None else _raw(self._data)
        return ConnectRequest(token=self._token, data=data, name="everywire-py")

    def subscriptions(self) -> list[Command]:
        """Return a subscribe command for each channel that is followed, and has a token if it needs one."""
        return [self._subscribe_command(each) for each in self._followed() if not each.wants_token]

    def _followed(self) -> list[Subscription]:
        return [each for each in self._subscriptions.values() if each.is_followed]

    async def fetch_token(self, has_expired: bool) -> None:
        """Have a token ready, if tokens come from somewhere."""
        if self._get_token is not None and (has_expired or not self._token):
            self._token = await fetch(self._get_token)
        elif has_expired:
            raise Refused("the token has expired, and there is no get_token", codes.TOKEN_EXPIRED.number)

    def connected(self, result: ConnectResult) -> None:
        """Take what the server said."""
        self.client_id = result.client
        self._server_side = {name: each.epoch for name, each in result.subs.items()}
        for name, each in result.subs.items():
            for publication in each.publications:
                self.pushed(Push(channel=name, pub=publication))
        self._expect_refresh(result.expires, result.ttl)

    async def restore(self) -> None:
        """Subscribe again to all that is followed, each from where it stands."""
        for subscription in self._subscriptions.values():
            subscription.is_subscribed = subscription.is_on_server = False
        ready = []
        for subscription in self._followed():
            if subscription.wants_token:
                # Beside: whoever hands out tokens may take its time, or ask over this very connection.
                self._connection.do(self._adjust(subscription))
            else:
                subscription.is_on_server = True
                ready.append(self._subscribe_command(subscription))
        if ready:
            await self._connection.send(ready)

    def disconnected(self, reason: str, delay_s: float) -> None:
        """Tell whoever wants to know."""
        if self._refresh is not None:
            self._refresh.cancel()
        for subscription in self._subscriptions.values():
            subscription.is_subscribed = subscription.is_on_server = False
        if self._lost is not None:
            tell(self._lost, reason, delay_s)

    def ended(self, error: ClientError) -> None:
        """End every subscription."""
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.end(error)

    def _expect_refresh(self, expires: bool, ttl_s: int) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            self._refresh = None
        if expires and ttl_s and self._get_token is not None:
            loop = asyncio.get_running_loop()
            self._refresh = loop.call_later(ttl_s, lambda: self._connection.do(self._refresh_token()))

    async def _refresh_token(self) -> None:
        assert self._get_token is not None
        self._token = await fetch(self._get_token)
        result = (await self._connection.call(Command(refresh=RefreshRequest(token=self._token)))).refresh
        if result is not None:
            self._expect_refresh(result.expires, result.ttl)

    # -- what comes in --------------------------------------------------------------------------

    def pushed(self, push: Push) -> None:
        """Take a push."""
        subscription = self._subscriptions.get(push.channel)
        if push.pub is not None:
            if subscription is not None:
                subscription.published(push.pub)
            elif self.on_publication is not None and push.channel in self._server_side:
                epoch = self._server_side[push.channel]
                tell(self.on_publication, read_publication(push.channel, epoch, push.pub))
        elif push.message is not None:
            if self.on_message is not None:
                tell(self.on_message, read_field(push.message.data))
        elif push.subscribe is not None:
            self._server_side[push.channel] = push.subscribe.epoch
        elif push.unsubscribe is not None:
            self._unsubscribed(push.channel, push.unsubscribe.code, push.unsubscribe.reason)
        elif subscription is not None and push.join is not None:
            subscription.joined(push.join)
        elif subscription is not None and push.leave is not None:
            subscription.left(push.leave)

    def settled(self) -> None:
        """Leave the channels whose readers are behind."""
        for subscription in self._subscriptions.values():
            if subscription.has_dropped and subscription.is_on_server:
                self._connection.do(self._adjust(subscription))

    def _unsubscribed(self, channel: str, code: int, reason: str) -> None:
        self._server_side.pop(channel, None)
        subscription = self._subscriptions.get(channel)
        if subscription is None:
            return
        subscription.is_subscribed = subscription.is_on_server = False
        if code == codes.SUBSCRIPTION_EXPIRED.number:
            subscription.token = ""
        if code >= codes.SUBSCRIPTION_GAP.number:
            self._connection.do(self._adjust(subscription))
        else:
            del self._subscriptions[channel]
            subscription.end(CommandError(f"the server ended this subscription: {reason}", code))


def _raw(data: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(data))
