"""Real engines for the tests: started on free ports, paused, killed, started again.

A program that is not installed is told loudly: a failure under CI, a skip with its reason elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 15.0
"""How long an engine may take to begin."""


def program(name: str, package: str) -> str:
    """Return the path of a real program; `EVERYWIRE_REDIS_SERVER` and the like name another version, or
    what takes its place (Valkey)."""
    named = os.environ.get(f"EVERYWIRE_{name.upper().replace('-', '_')}")
    if named:
        return named
    # Debian keeps some servers where only root looks for programs.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        sentence = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return found


def free_port() -> int:
    """Return a port that was free a moment ago, and whose sister for a cluster's bus (+10000) exists."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        if port < 50_000:
            with socket.socket() as sister:
                try:
                    sister.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
            return port


class Engine:
    """One process of an engine, which can be started again with the same command."""

    def __init__(self, command: Sequence[str], directory: Path, port: int) -> None:
        self.command = list(command)
        self.directory = directory
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        directory = self.directory
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / "output.log", "ab") as output:
            self.process = subprocess.Popen(
                self.command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                ended = self.process.poll() is not None
                if ended or time.monotonic() > end:
                    self.kill()
                    raise AssertionError((directory / "output.log").read_text()[-2000:]) from None
                time.sleep(0.02)

    def pause(self) -> None:
        """Let it do nothing until `go_on`; its connections stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, saving nothing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Ask it to end, which may save."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()


@contextmanager
def running(*engines: Engine) -> Iterator[None]:
    """Start engines, and end them afterwards."""
    try:
        for engine in engines:
            engine.start()
        yield
    finally:
        for engine in reversed(engines):
            engine.kill()


# -- Redis ------------------------------------------------------------------------


def redis_engine(directory: Path, *options: str, port: int = 0) -> Engine:
    """Return a Redis server, not yet started, that keeps nothing beyond its end unless options say so."""
    port = port or free_port()
    server = program("redis-server", "redis-server")
    own = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    return Engine([server, *own, "--appendonly", "no", *options], directory, port)


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[Engine]:
    """Run a Redis server."""
    engine = redis_engine(directory, *options)
    with running(engine):
        yield engine


def redis_command(port: int, *arguments: str) -> str:
    """Run a command by `redis-cli`; return what it prints."""
    done = subprocess.run(
        [program("redis-cli", "redis-tools"), "-p", str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=20.0,
        check=True,
    )
    return done.stdout.strip()


class Cluster:
    """A Redis cluster of several masters without replicas."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = list(engines)
        self.ids = [redis_command(engine.port, "CLUSTER", "MYID") for engine in engines]

    @property
    def places(self) -> str:
        """Where its servers are, as an address lists them."""
        return ",".join(f"127.0.0.1:{engine.port}" for engine in self.engines)

    def owner(self, slot: int) -> int:
        """Return which server has a slot, by its number."""
        for line in redis_command(self.engines[0].port, "CLUSTER", "NODES").splitlines():
            words = line.split(" ")
            for ranges in words[8:]:
                first, _, last = ranges.partition("-")
                if first.isdigit() and int(first) <= slot <= int(last or first):
                    return self.ids.index(words[0])
        raise AssertionError(f"nobody has slot {slot}")

    def move(self, slot: int, to: int, pause_s: float = 0.0) -> None:
        """Move a slot as `redis-cli --cluster reshard` does, a key at a time, with a pause after each."""
        at = self.owner(slot)
        source, target = self.engines[at].port, self.engines[to].port
        redis_command(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.ids[at])
        redis_command(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.ids[to])
        time.sleep(pause_s)
        while keys := redis_command(source, "CLUSTER", "GETKEYSINSLOT", str(slot), "10").split():
            for key in keys:
                redis_command(source, "MIGRATE", "127.0.0.1", str(target), key, "0", "5000")
                time.sleep(pause_s)
        for engine in (self.engines[to], self.engines[at], *self.engines):
            redis_command(engine.port, "CLUSTER", "SETSLOT", str(slot), "NODE", self.ids[to])


@contextmanager
def redis_cluster(directory: Path, count: int = 3) -> Iterator[Cluster]:
    """Run a Redis cluster and wait until it is whole."""
    options = (
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
    )
    engines = [redis_engine(directory / str(number), *options) for number in range(count)]
    with running(*engines):
        places = [f"127.0.0.1:{engine.port}" for engine in engines]
        redis_command(engines[0].port, "--cluster", "create", *places, "--cluster-yes")
        end = time.monotonic() + START_S
        while any("state:ok" not in redis_command(one.port, "CLUSTER", "INFO") for one in engines):
            assert time.monotonic() < end, "the cluster never became whole"
            time.sleep(0.05)
        yield Cluster(engines)


class Sentinels:
    """A Redis master, its replica, and a Sentinel that watches over them under the name ``main``."""

    def __init__(self, master: Engine, replica: Engine, sentinel: Engine) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel

    def wait_replicated(self) -> None:
        """Wait until the replica has all that the master has."""
        end = time.monotonic() + START_S
        while redis_command(self.master.port, "WAIT", "1", "1000") != "1":
            assert time.monotonic() < end, "the replica never had everything"

    def cut_replica(self) -> None:
        """Let the replica hear nothing more of its master."""
        redis_command(self.master.port, "ACL", "SETUSER", "replica", "off")
        redis_command(self.master.port, "CLIENT", "KILL", "TYPE", "replica")

    def wait_promoted(self) -> None:
        """Wait until the replica is master."""
        end = time.monotonic() + 2 * START_S
        while not redis_command(self.replica.port, "ROLE").startswith("master"):
            assert time.monotonic() < end, "the replica was never promoted"
            time.sleep(0.05)


@contextmanager
def redis_sentinels(directory: Path) -> Iterator[Sentinels]:
    """Run a master, a replica and a Sentinel."""
    users = directory / "users"
    directory.mkdir(parents=True, exist_ok=True)
    users.write_text("user default on nopass ~* &* +@all\nuser replica on >secret +psync +replconf +ping\n")
    master = redis_engine(directory / "master", "--aclfile", str(users))
    replica = redis_engine(
        directory / "replica",
        "--replicaof", "127.0.0.1", str(master.port), "--masteruser", "replica", "--masterauth", "secret",
    )  # fmt: skip
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
    )
    server = program("redis-server", "redis-server")
    sentinel = Engine([server, str(config), "--sentinel"], directory / "sentinel", port)
    with running(master, replica):
        end = time.monotonic() + START_S
        while "master_link_status:up" not in redis_command(replica.port, "INFO", "replication"):
            assert time.monotonic() < end, "the replica never found its master"
            time.sleep(0.05)
        with running(sentinel):
            while redis_command(sentinel.port, "SENTINEL", "REPLICAS", "main") == "":
                assert time.monotonic() < end + START_S, "the Sentinel never found the replica"
                time.sleep(0.05)
            yield Sentinels(master, replica, sentinel)


# -- NATS -------------------------------------------------------------------------


def nats_engine(directory: Path, *options: str, port: int = 0) -> Engine:
    """Return a NATS server with JetStream, not yet started; what it stores is in the directory."""
    port = port or free_port()
    server = program("nats-server", "nats-server")
    own = ["--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", str(directory)]
    return Engine([server, *own, *options], directory, port)


@contextmanager
def nats_server(directory: Path, *options: str) -> Iterator[Engine]:
    """Run a NATS server with JetStream."""
    engine = nats_engine(directory, *options)
    with running(engine):
        yield engine
