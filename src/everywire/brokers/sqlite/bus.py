"""Datagrams between the nodes of one machine: hints of what was appended, letters, and the canary.

Each node has a Unix datagram socket (unix(7)) in a directory beside the file; whoever is listed there and
answers to a connect is alive. A socket's queue is short, ten datagrams on many systems, so what does not go
out at once waits in a `Lane` per node: hints melt together per channel, and lose their publications when they
grow, until only how far the channel is remains. What finds no room is dropped and counted; the comparison of
heads makes up for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from everywire.brokers.base import Sink
from everywire.brokers.record import unpack
from everywire.brokers.sqlite.channels import Run
from everywire.brokers.sqlite.forking import let_go_after_fork
from everywire.brokers.sqlite.lane import MAX_DATAGRAM_BYTES, Hint, Lane
from everywire.core.errors import BrokerError, SettingsError

__all__ = ["Bus"]

_NODE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RECEIVED_AT_ONCE: Final = 64
_SUFFIX: Final = ".socket"
_HAS_PROC: Final = os.path.isdir("/proc/self/fd")

_log: Final = logging.getLogger("everywire.brokers")
_decoder: Final = msgspec.msgpack.Decoder(list[Hint])


class Bus:
    """One node's socket and its lanes to the others. All calls from the loop, but `is_alone` and `nodes`."""

    def __init__(
        self,
        directory: Path,
        node: str,
        watched: Callable[[str], bool],
        letter: Callable[[bytes], None],
        stored_letter: Callable[[int], None],
        canary: Callable[[bytes], None],
        gone: Callable[[str], None],
    ) -> None:
        if not _NODE.fullmatch(node):
            raise SettingsError("expected a node's name of 1 to 64 letters, digits, - or _")
        self.sink: Sink | None = None
        self.hints_sent = self.hints_received = self.hints_lost = self.letters_lost = 0
        self.bytes_out = self.bytes_in = 0
        self.rebound = 0
        """How often the socket had to be made anew."""
        self._directory = directory
        self._node = node
        self._watched = watched
        self._gone = gone
        self._takers: dict[bytes, Callable[[bytes], None]] = {
            b"h": self._hints,
            b"p": letter,
            b"m": lambda data: stored_letter(int.from_bytes(data, "big")),
            b"c": canary,
        }
        self._lanes: dict[str, Lane] = {}
        self._handle = -1
        self._socket: socket.socket | None = None
        self._bound = 0
        let_go_after_fork(self)

    # -- life -----------------------------------------------------------------------

    def open(self) -> None:
        """Make the directory and the socket; raise `BrokerError` when that cannot be."""
        try:
            self._open_directory()
            own = _make_socket()
            try:
                path = self._path(self._node)
                self._unlink(self._node)
                own.bind(path)
                os.chmod(path, 0o600)
                self._bound = self._inode(self._node)
            except OSError:
                own.close()
                raise
        except OSError as error:
            raise BrokerError(f"no socket for hints can be made: {error.strerror}") from None
        self._socket = own
        asyncio.get_running_loop().add_reader(own.fileno(), self._readable)

    def _open_directory(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._handle < 0:
            self._handle = opened
        else:
            # The same number: the writing thread may be looking for nodes through it.
            os.dup2(opened, self._handle, inheritable=False)
            os.close(opened)

    def open_anew(self) -> None:
        """Make the socket anew, and forget the lanes to others."""
        self.rebound += 1
        self._close_sockets()
        self.open()

    def close(self) -> None:
        """Be no node any more."""
        self._close_sockets()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _close_sockets(self) -> None:
        for node in list(self._lanes):
            self._close_lane(node)
        own, self._socket = self._socket, None
        if own is not None:
            asyncio.get_running_loop().remove_reader(own.fileno())
            # Before it is closed, so that nobody finds a socket that refuses and takes the next one's away.
            if self._bound == self._inode(self._node):
                self._unlink(self._node)
            own.close()

    def _path(self, node: str) -> str:
        # Names of sockets are short (108 bytes), directories may be deep.
        directory = f"/proc/self/fd/{self._handle}" if _HAS_PROC else str(self._directory)
        return f"{directory}/{node}{_SUFFIX}"

    def _unlink(self, node: str) -> None:
        try:
            os.unlink(f"{node}{_SUFFIX}", dir_fd=self._handle)
        except OSError:
            pass

    def _inode(self, node: str) -> int:
        try:
            return os.stat(f"{node}{_SUFFIX}", dir_fd=self._handle, follow_symlinks=False).st_ino
        except OSError:
            return 0

    def forked(self) -> None:
        """Let go of what a forked process inherits: a socket lives as long as anybody holds it, and the node
        would seem to."""
        for one in (self._socket, *[lane.socket for lane in self._lanes.values()]):
            if one is not None:
                one.close()
        self._socket = None
        self._lanes.clear()

    # -- who is there ------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Return the names of the other nodes that have a socket."""
        try:
            names = os.listdir(self._handle)
        except OSError:
            return []
        nodes = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        return [node for node in nodes if node != self._node and _NODE.fullmatch(node)]

    def is_alive(self, node: str) -> bool:
        """Say whether a node's process holds its socket; what is left of a dead one is removed."""
        if not _NODE.fullmatch(node):
            return False
        try:
            self._connect(node).close()
        except ConnectionRefusedError:
            self._unlink(node)
            return False
        except FileNotFoundError:
            return False
        except OSError:
            pass  # not for us to judge, with no descriptor left for example
        return True

    def is_alone(self) -> bool:
        """Say whether no other node is alive, as far as this one can still tell."""
        return self._handle >= 0 and not any(self.is_alive(node) for node in self.nodes())

    def _connect(self, node: str) -> socket.socket:
        peer = _make_socket()
        try:
            peer.connect(self._path(node))
        except BaseException:
            peer.close()
            raise
        return peer

    def _lane(self, node: str) -> Lane | None:
        lane = self._lanes.get(node)
        if lane is None and self._socket is not None and _NODE.fullmatch(node):
            try:
                lane = self._lanes[node] = Lane(self._connect(node))
            except ConnectionRefusedError:
                self._unlink(node)
            except FileNotFoundError:
                pass
            except OSError as error:
                _log.warning("node %s cannot be reached: %s", node, error)
        return lane

    def _close_lane(self, node: str) -> None:
        lane = self._lanes.pop(node, None)
        if lane is not None:
            if lane.is_waiting:
                asyncio.get_running_loop().remove_writer(lane.socket.fileno())
            self.hints_lost += lane.lost()
            self.letters_lost += len(lane.letters)
            lane.socket.close()

    def dropped(self) -> int:
        """Return how many hints were lost on their way out, or could not be read."""
        return self.hints_lost + sum(lane.dropped for lane in self._lanes.values())

    def prune(self) -> None:
        """Forget the lanes to nodes that are gone."""
        present = set(self.nodes())
        for node in list(self._lanes):
            if node not in present:
                self._close_lane(node)

    # -- sending -----------------------------------------------------------------------

    def hint(self, epoch: str, runs: Iterable[Run]) -> None:
        """Tell the nodes that watch them what was appended to channels."""
        touched: dict[str, Lane] = {}
        for run in runs:
            for node in run.watchers:
                lane = touched.get(node) or self._lane(node)
                if lane is None:
                    self.hints_lost += 1
                    self._gone(node)
                    continue
                touched[node] = lane
                lane.add(epoch, run)
        for node, lane in touched.items():
            self._flush(node, lane)

    def send(self, node: str, frame: bytes) -> None:
        """Send a letter to a node; raise `BrokerError` when it is not there or takes no more."""
        self._send(node, b"p" + frame)

    def send_stored(self, node: str, id: int) -> None:
        """Send a letter by reference: its number in the store."""
        self._send(node, b"m" + id.to_bytes(8, "big"))

    def _send(self, node: str, datagram: bytes) -> None:
        lane = self._lane(node)
        if lane is None:
            raise BrokerError(f"there is no node {node[:64]!r}")
        if not lane.post(datagram):
            self.letters_lost += 1
            raise BrokerError(f"node {node} takes no more messages")
        self._flush(node, lane)
        if node not in self._lanes:
            raise BrokerError(f"node {node} is gone")

    def chirp(self, token: bytes) -> None:
        """Send a token to the own socket, by its path, so that it is known to be there for others."""
        if self._socket is None:
            raise BrokerError("this node has no socket for hints")
        try:
            self._socket.sendto(b"c" + token, self._path(self._node))
        except BlockingIOError:
            pass  # what fills the queue is yet to be read; the next one will tell
        except OSError as error:
            raise BrokerError(f"this node's socket for hints is gone: {error.strerror}") from None

    def _flush(self, node: str, lane: Lane) -> None:
        """Send what waits for a node, as far as its queue takes it."""
        try:
            while (datagram := lane.next()) is not None:
                lane.socket.send(datagram)
                self.bytes_out += len(datagram)
                self.hints_sent += lane.sent()
        except BlockingIOError:
            if not lane.is_waiting:
                lane.is_waiting = True
                asyncio.get_running_loop().add_writer(lane.socket.fileno(), self._flush, node, lane)
            return
        except OSError as error:
            if not isinstance(error, ConnectionError):
                _log.warning("node %s cannot be reached: %s", node, error)
            self._close_lane(node)
            if not self.is_alive(node):
                self._gone(node)
            return
        if lane.is_waiting:
            lane.is_waiting = False
            asyncio.get_running_loop().remove_writer(lane.socket.fileno())

    # -- receiving ---------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(_RECEIVED_AT_ONCE):
            own = self._socket
            if own is None:
                return
            try:
                data = own.recv(2 * MAX_DATAGRAM_BYTES)
            except OSError:
                return  # nothing more; if it is the socket that fails, the canary finds out
            self.bytes_in += len(data)
            taker = self._takers.get(data[:1])
            if taker is not None:
                taker(data[1:])

    def _hints(self, data: bytes) -> None:
        try:
            hints: Sequence[Hint] = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.hints_lost += 1
            return
        for hint in hints:
            self.hints_received += 1
            if self.sink is None or not self._watched(hint.channel):
                continue
            if hint.records is None:
                self.sink.advanced(hint.channel, hint.epoch, hint.last)
                continue
            begin = hint.last + 1 - len(hint.records)
            try:
                publications = [unpack(begin + at, record) for at, record in enumerate(hint.records)]
            except BrokerError:
                publications = []
            if publications and hint.previous in (0, begin - 1):
                self.sink.published(hint.channel, hint.epoch, publications, hint.previous)
            else:
                self.sink.advanced(hint.channel, hint.epoch, hint.last)


def _make_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
