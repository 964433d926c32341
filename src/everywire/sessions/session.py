"""A session: one client's life with many channels, whatever carries it.

It speaks the Centrifuge client protocol (version 2). A carrier makes it, hands over what the client sends,
and tells it what its host tells; the session writes through the carrier. It is made before the client is
known: the first command has to be ``connect``, and what comes behind it waits until that was answered.

Commands are begun in the order in which they came, and never wait for one another, except: about one
channel they do while a subscription is made; handlers of the application run in their lanes
(`everywire.sessions.lanes`). While the client does not read its answers, nothing more is begun, and the
carrier is asked to bring no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import Command, Empty, MessagePush, Push, Reply
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError, InvalidToken
from everywire.core.position import Place
from everywire.sessions import keepalive
from everywire.sessions.answers import field, field_bytes
from everywire.sessions.carrier import Carrier
from everywire.sessions.commands import ask_presence, ask_presence_stats, call, publish, send
from everywire.sessions.connecting import connect
from everywire.sessions.history import read_history
from everywire.sessions.line import Line
from everywire.sessions.refreshing import refresh, refresh_from_server, refresh_subscription
from everywire.sessions.server_side import end_subscription, subscribe_from_server
from everywire.sessions.shared import Shared
from everywire.sessions.subscribing import subscribe, unsubscribe, wait_behind

__all__ = ["Session"]

_PONG: Final = Command()
_WAITING_SHARE: Final = 4
"""How many times `Limits.max_pending_commands` may wait here that a carrier could not hold back."""


class Session(Line):
    """One client's life. A carrier's methods and a `everywire.sessions.registry.Visitor`'s.

    All calls are plain ones from the event loop; none waits. After its end a session ignores whatever is
    told to it, and holds nothing.
    """

    __slots__ = ()

    def __init__(self, shared: Shared, carrier: Carrier, request: AuthRequest) -> None:
        super().__init__(shared, carrier, request)
        keepalive.await_connect(self)

    @property
    def is_idle(self) -> bool:
        """Whether every command that came was answered."""
        return not self.pending and not self.backlog

    # -- what the carrier brings -------------------------------------------------------

    def receive(self, commands: Sequence[Command]) -> None:
        """Take commands, in order. A command that the protocol does not allow ends the session (3501)."""
        if self.is_ended:
            return
        keepalive.heard(self)
        self.backlog.extend(commands)
        self.go_on()
        if self.backlog:
            self._bound_backlog(commands)
        else:
            self.backlog_bytes = 0

    def _bound_backlog(self, commands: Sequence[Command]) -> None:
        """End the session when too much waits here: its carrier cannot be held back, or it is one message."""
        limits = self.shared.limits
        self.backlog_bytes += sum(map(_size, commands))
        most = max(_WAITING_SHARE * limits.max_pending_commands, limits.max_batch_commands)
        if len(self.backlog) > most or self.backlog_bytes > _WAITING_SHARE * limits.max_pending_bytes:
            self.end(codes.SLOW_DOWN)

    def receive_bytes(self, data: bytes) -> None:
        """Take commands as the client wrote them, in the form of the carrier's dialect. What cannot be read,
        holds no command or too many ends the session (3501)."""
        if self.is_ended or (self.carrier.dialect.is_one_way and (self.is_connected or self.pending)):
            return  # one-way carriers are heard once
        try:
            commands = self.carrier.dialect.commands(data, self.shared.limits.max_batch_commands)
            if not commands:
                raise BadRequest("there is no command in this message")
        except EverywireError as error:
            self.end(codes.BAD_PROTOCOL, error.sentence)
        else:
            self.receive(commands)

    def stalled(self) -> None:
        """Hear that the carrier holds unsent bytes."""
        if self.is_ended or self.is_stalled:
            return
        self.is_stalled = True
        for subscription in tuple(self.subscriptions.values()):
            if subscription.reader is not None:
                subscription.reader.stalled()

    def writable(self) -> None:
        """Hear that the carrier's bytes were all taken."""
        if self.is_ended or not self.is_stalled:
            return
        self.is_stalled = False
        self.queued_bytes = 0
        readers = [one.reader for one in self.subscriptions.values() if one.reader is not None]
        if readers:
            # Another channel is first every time: the first one may fill the carrier again.
            self.turn = turn = (self.turn + 1) % len(readers)
            for reader in readers[turn:] + readers[:turn]:
                reader.writable()
        self.say_unsaid()
        self.go_on()

    def gone(self, reason: str) -> None:
        """Hear that the peer is gone: the session ends without a word."""
        if not self.is_ended:
            self.release(None)

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops: the session ends with 3001."""
        self.end(codes.SHUTDOWN, f"the server is shutting down; come back in {retry_ms} ms")

    # -- the clockwork -------------------------------------------------------------------

    def run_due(self) -> None:
        """Do what is due."""
        keepalive.run_due(self)

    # -- commands ------------------------------------------------------------------------

    def go_on(self) -> None:
        """Begin what came, as far as it may be begun; and say whether more may come."""
        if self.is_joining or self.is_ended:
            return
        self.join_replies()
        try:
            while self.backlog and self._may_begin(self.backlog[0]):
                command = self.backlog.pop(0)
                if self.is_connected:
                    self.handle(command)
                else:
                    self._begin(command)
        finally:
            # If the session ended, there is nothing left of what is looked at here.
            self.flush()
        if not self.is_ended:
            self._hold_back()
        if not self.is_ended and self.is_idle and self.on_idle is not None:
            self.on_idle()

    def _may_begin(self, command: Command) -> bool:
        if self.is_failed:
            return True
        if not self.is_connected:
            return not self.pending  # what comes behind connect waits for its answer
        if self.is_full or self.is_publishing_held:
            return False
        # A message has no answer that could refuse it: it waits where it is.
        return command.send is None or self.has_room()

    def _hold_back(self) -> None:
        if self.backlog or self.is_publishing_held:
            if not self.is_paused:
                self.is_paused = True
                self.carrier.pause_reading()
        elif self.is_paused:
            self.is_paused = False
            self.carrier.resume_reading()

    def _begin(self, command: Command) -> None:
        """Take the first command, which has to be connect."""
        request = command.connect
        if request is None or not command.id or self.is_failed:
            reason = "connect first" if request is None else "this connection was refused"
            self.end(codes.BAD_PROTOCOL, reason)
            return
        self.shared.counters.commands += 1
        connect(self, command.id, request)

    def handle(self, command: Command) -> None:
        """Handle one command of a connected client."""
        if self.carrier.dialect.is_one_way:
            return
        try:
            self._handle(command)
        except InvalidToken as error:
            self.end(codes.INVALID_TOKEN, error.sentence)
        except EverywireError as error:
            self.fail(command.id, error)

    def _handle(self, command: Command) -> None:
        command_id = command.id
        self.shared.counters.commands += 1
        if command.connect is not None:
            self.end(codes.BAD_PROTOCOL, "connect comes once")
        elif command.send is not None and not _asks(command):
            send(self, command.send)
        elif not command_id:
            if command != _PONG:
                self.end(codes.BAD_PROTOCOL, "this command needs an id")
        elif command.subscribe is not None:
            if not wait_behind(self, command.subscribe.channel, command):
                subscribe(self, command_id, command.subscribe)
        elif command.unsubscribe is not None:
            if not wait_behind(self, command.unsubscribe.channel, command):
                unsubscribe(self, command_id, command.unsubscribe)
        elif command.publish is not None:
            publish(self, command_id, command.publish)
        elif command.presence is not None:
            ask_presence(self, command_id, command.presence)
        elif command.presence_stats is not None:
            ask_presence_stats(self, command_id, command.presence_stats)
        elif command.history is not None:
            read_history(self, command_id, command.history)
        elif command.ping is not None:
            self.reply(Reply(id=command_id, ping=Empty()))
        elif command.rpc is not None:
            call(self, command_id, command.rpc)
        elif command.refresh is not None:
            refresh(self, command_id, command.refresh)
        elif command.sub_refresh is not None:
            if not wait_behind(self, command.sub_refresh.channel, command):
                refresh_subscription(self, command_id, command.sub_refresh)
        else:
            self.end(codes.BAD_PROTOCOL, "this command asks for nothing that is known")

    # -- what the application does to it (Visitor) ---------------------------------------

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End a subscription: push ``unsubscribe``. A subscription that is being made is refused (103)."""
        if not self.is_ended:
            end_subscription(self, channel, code)

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        """Begin a server-side subscription, after a place or at the head: push ``subscribe``. Nothing
        happens when there is a subscription to the channel already, or no room for one more."""
        if self.is_connected and not self.is_ended:
            subscribe_from_server(self, channel, decision, since)

    def refresh(self, expires_s: float | None) -> None:
        """Let the session be good until another time (UNIX time; None is for ever): push ``refresh``."""
        if self.is_connected and not self.is_ended:
            refresh_from_server(self, expires_s)

    def message(self, data: bytes) -> None:
        """Send a message: push ``message`` with JSON text (any bytes to a Protobuf client)."""
        if self.is_connected and not self.is_ended:
            is_binary = self.carrier.dialect.is_binary
            self.push(Push(message=MessagePush(data=field(data, is_binary))))


def _size(command: Command) -> int:
    """Return how much data a command brings."""
    for request in (command.publish, command.rpc, command.send, command.subscribe):
        if request is not None:
            return len(field_bytes(request.data) or b"")
    return 0


def _asks(command: Command) -> bool:
    """Say whether a command with ``send`` asks for something that counts before it (the first that is set
    counts)."""
    return any(
        one is not None
        for one in (
            command.subscribe,
            command.unsubscribe,
            command.publish,
            command.presence,
            command.presence_stats,
            command.history,
            command.ping,
        )
    )
