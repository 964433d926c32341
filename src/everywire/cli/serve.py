"""`everywire serve`: the server, with settings from file, environment and flags; one process or several."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from everywire.api.host_figures import host_figures
from everywire.application import Everywire
from everywire.brokers.opening import check_address
from everywire.brokers.state import state_dir
from everywire.cli.sources import machine
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.names import is_name
from everywire.server.log import Log
from everywire.server.log_bridge import LogBridge
from everywire.server.options import ServerOptions
from everywire.server.run import run as run_loop
from everywire.server.run import serve
from everywire.server.server import Server
from everywire.server.settings import Settings
from everywire.server.settings_sources import Flag, load_settings
from everywire.server.worker import Worker, assigned
from everywire.server.worker_link import Assignment, take_assignment
from everywire.server.workers import Plan, Workers

__all__ = ["add_parser", "read_settings"]

_log = logging.getLogger("everywire.cli")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the line."""
    parser = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server. Settings come from --config, then the environment (EVERYWIRE_…), "
        "then these flags; see docs/settings.md.",
    )
    parser.add_argument(
        "--dev", action="store_true", help="on loopback: anyone may read and publish, without credentials"
    )
    parser.add_argument("--host", metavar="H", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="P", type=int, help="port to listen on (8000); 0 takes a free one")
    parser.add_argument(
        "--unix", metavar="PATH", action="append", default=[], help="listen on a unix socket, too"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="PEM certificate chain: serve by TLS")
    parser.add_argument("--tls-key", metavar="FILE", help="PEM key of the certificate")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that serve (1)")
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="memory:, sqlite:///DIRECTORY, redis://HOST:PORT/DB or nats://HOST:PORT "
        "(memory: for one worker, else sqlite)",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    parser.add_argument("--drain", metavar="SECONDS", type=float, help="how long a shutdown may take (10)")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (info)")
    parser.add_argument(
        "--feed", metavar="CHANNEL", help="publish this machine's own figures to CHANNEL once a second"
    )
    parser.set_defaults(run=run)


def read_settings(args: argparse.Namespace) -> Settings:
    """Read the settings with the flags on top."""
    values: dict[tuple[str | int, ...], tuple[str, Any]] = {
        ("listen", 0, "host"): ("--host", args.host),
        ("listen", 0, "port"): ("--port", args.port),
        ("listen", 0, "tls_cert"): ("--tls-cert", args.tls_cert),
        ("listen", 0, "tls_key"): ("--tls-key", args.tls_key),
        ("workers",): ("--workers", args.workers),
        ("broker",): ("--broker", args.broker),
        ("drain_s",): ("--drain", args.drain),
        ("log", "level"): ("--log-level", args.log_level),
        ("dev",): ("--dev", args.dev or None),
    }
    flags = [Flag(flag, path, value) for path, (flag, value) in values.items() if value is not None]
    if args.feed is not None and not is_name(args.feed):
        raise SettingsError(f"--feed: expected a channel name, got {args.feed!r}")
    settings = load_settings(args.config, os.environ, flags, args.unix)
    if settings.broker:
        try:
            check_address(settings.broker)
        except SettingsError as error:
            raise SettingsError(f"broker: {error.sentence}") from None
    return settings


def run(args: argparse.Namespace) -> int:
    """Serve until a signal: alone, as the parent of workers, or as one of them."""
    assignment = take_assignment(os.environ)
    if assignment is not None:
        return run_loop(_work(args, assignment))
    settings = read_settings(args)
    log_fd = _open_log(settings.log.file)
    options = settings.server_options(log_fd)
    if settings.workers > 1:
        asyncio.run(_lead(settings, options, args.feed))
    else:
        run_loop(_serve(settings, options, args.feed))
    return 0


async def _lead(settings: Settings, options: ServerOptions, feed: str | None) -> None:
    """Be the parent of workers."""
    place = _Place(settings)
    plan = Plan(
        command=[sys.executable, *sys.orig_argv[1:]],
        count=settings.workers,
        listen=settings.listen,
        addresses=options.listen,
        limits=settings.limits,
        backlog=options.backlog,
        drain_s=settings.drain_s,
        broker=place.broker,
        advertise=settings.advertise,
        reopen_log=lambda: _reopen_log(settings.log.file, options.log_fd),
    )
    workers = Workers(plan, Log(options.log_fd, time.time, options.log_level))
    try:
        await workers.run(lambda workers: _tell(workers.addresses, settings, feed))
    finally:
        place.close()


class _Place:
    """Where workers share what they have to share, if the settings name no broker: in the state directory, at
    a place that goes by the addresses, which are this server's alone. So the next start finds it again; what
    was at a port that just was free, nobody will look for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_kept = all(listen.port or listen.unix for listen in settings.listen)
        self._path: Path | None = None

    def broker(self, addresses: Sequence[str]) -> str:
        """Return the broker's address."""
        if self._settings.broker:
            return ""
        digest = hashlib.sha256("\n".join(addresses).encode()).hexdigest()
        self._path = state_dir(self._settings.state_dir, name=f"serve-{digest[:12]}")
        return f"sqlite://{quote(str(self._path))}"

    def close(self) -> None:
        """Leave nothing behind that nobody will look for."""
        if self._path is not None and not self._is_kept:
            shutil.rmtree(self._path, ignore_errors=True)


async def _work(args: argparse.Namespace, assignment: Assignment) -> int:
    """Be a worker; what goes wrong is told to the parent, which tells it once."""
    refusal: EverywireError | None = None
    settings = Settings()
    try:
        settings = assigned(read_settings(args), assignment)
    except SettingsError as error:
        refusal = error
    worker = Worker(assignment, settings.limits)
    await worker.open()
    try:
        if refusal is not None:
            raise refusal
        options = replace(
            settings.server_options(_open_log(settings.log.file)),
            inherited=assignment.inherited,
            worker=assignment.number,
        )
        await _serve(settings, options, args.feed if worker.is_first else None, worker)
    except EverywireError as error:
        worker.refused(error.sentence)
        return 2
    finally:
        await worker.close()
    return 0


def _open_log(path: str) -> int:
    if not path:
        return sys.stderr.fileno()
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    except OSError as error:
        raise SettingsError(f"log.file: {path!r} cannot be written: {error.strerror}") from None


def _reopen_log(path: str, fd: int | None) -> None:
    """Let a descriptor be the file's that has the name now."""
    if path and fd is not None:
        try:
            opened = _open_log(path)
        except SettingsError:
            return  # it is told by the workers, which cannot open it either
        os.dup2(opened, fd, inheritable=False)
        os.close(opened)


def make_application(settings: Settings, node: str | None = None) -> Everywire:
    """Put a server together by its settings."""
    return Everywire(
        settings.broker or None,
        node=node,
        state_dir=settings.state_dir,
        advertise=settings.advertise,
        dev=settings.dev,
        limits=settings.limits,
        channels=settings.settings_table(),
        api_keys=settings.rules.named_keys(),
        public=settings.public_patterns(),
        user_rules=settings.user_patterns(),
        tokens=settings.tokens.verifier(settings.limits),
        cookie_name=settings.tokens.cookie,
        webhooks=settings.webhooks.settings(),
        allowed_origins=settings.origins.allowed_origins,
        allow_credentials=settings.origins.allow_credentials,
        allowed_hosts=settings.hosts.allowed_hosts,
        is_loopback=settings.is_loopback,
        socketio=settings.socketio.settings(),
        sockjs=settings.sockjs.prefix if settings.sockjs.enabled else "",
        sockjs_client_url=settings.sockjs.client_url,
    )


async def _serve(
    settings: Settings, options: ServerOptions, feed: str | None, worker: Worker | None = None
) -> None:
    node = None if worker is None else worker.assignment.node
    wire = make_application(settings, node)
    feeding: list[asyncio.Task[None]] = []

    def started(server: Server) -> None:
        bridge.attach(server.log)
        wire.operations.figures.add(lambda: host_figures(server))
        if feed is not None:
            feeding.append(asyncio.create_task(_feed(wire, feed)))
        if worker is None:
            _tell(server.addresses, settings, feed)
        else:
            wire.operations.gather = worker.gather
            worker.node_ended = wire.node_ended
            worker.ready(wire.operations.figures.all)

    def draining() -> None:
        wire.operations.is_draining = True
        if worker is not None:
            worker.leaving()
        for task in feeding:
            task.cancel()

    with LogBridge(settings.log.level.value) as bridge:
        await wire.start()
        try:
            await serve(wire.handle, options, on_start=started, on_drain=draining, worker=worker)
        finally:
            if worker is not None:
                worker.finish()
            await asyncio.gather(*feeding, return_exceptions=True)
            await wire.close()


async def _feed(wire: Everywire, channel: str) -> None:
    """Publish this machine's figures; one that the log does not take is told and forgotten."""
    async with aclosing(machine()) as samples:
        async for sample in samples:
            try:
                await wire.publish(channel, msgspec.Raw(sample.data))
            except EverywireError as error:
                _log.warning("--feed dropped a sample: %s", error.sentence)


def _tell(addresses: Sequence[str], settings: Settings, feed: str | None) -> None:
    """Say where it listens, and what to try."""
    for address in addresses:
        print(f"everywire: listening on {address}")
    if settings.dev:
        print("everywire: --dev: anyone on this machine may read and publish, without credentials")
    url = next((address for address in addresses if "://" in address), None)
    if url is not None and settings.dev:
        curl = "curl -k" if url.startswith("https") else "curl"
        channel = quote(feed or "hello", safe="")
        print(f"everywire: open {url}/?channel={channel} in a browser, or try:")
        print(f"  {curl} -N -H 'Accept: text/event-stream' '{url}/channels/{channel}'")
        print(f"  {curl} -d '{{\"text\": \"hello\"}}' '{url}/channels/hello'")
    sys.stdout.flush()
