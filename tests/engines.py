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
    """Return the path of a real program."""
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
