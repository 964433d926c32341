"""The servers under test: each is started fresh, on its core, and ended by its own pid."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from everywire.lab.plan import Subject
from everywire.lab.prepare import publish_to, watch
from everywire.lab.processes import end, free_port, start, wait_until_it_listens
from everywire.lab.tools import Tools, find_nchan, find_node_socketio, find_openssl, find_python_socketio

__all__ = ["SERVER_LOG", "Running", "make_certificate", "running"]

SERVER_LOG = "server.log"
START_TIMEOUT_S = 15.0
CERTIFICATE_TIMEOUT_S = 30.0
MAX_FILES, SPARE_FILES = 65_536, 64

NCHAN_CONF = """\
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; multi_accept on; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 256m;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /subscribe {{
            nchan_subscriber websocket eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
        location = /poll {{
            nchan_subscriber longpoll;
            nchan_channel_id bench;
            nchan_subscriber_first_message oldest;
        }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id bench;
            nchan_message_buffer_length 20;
            nchan_message_timeout 60s;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections."""

    pid: int
    port: int
    kind: str
    certificate: Path | None = None

    def path(self, wire: str) -> str:
        """Return what a reader on the wire asks for."""
        if wire == "socketio":
            return "/socket.io/?EIO=4&transport=websocket"
        if self.kind == "everywire":
            return "/channels/bench?wait=25" if wire == "longpoll" else "/channels/bench"
        return "/poll" if wire == "longpoll" else "/subscribe"

    @property
    def publish_path(self) -> str:
        """Where messages are posted to."""
        return "/channels/bench" if self.kind == "everywire" else "/publish"

    @property
    def cursor(self) -> str:
        """How a long poll's answer says where to go on."""
        return "headers" if self.kind == "nchan" else "json"


@contextmanager
def running(
    subject: Subject, tools: Tools, core: int | None, folder: Path, certificate: Path | None = None
) -> Iterator[Running]:
    """Start a subject in an empty folder, bring it into its state, and end it afterwards."""
    port = free_port()
    command = _command(subject, tools, port, folder, certificate)
    with ExitStack() as ending:
        process = start(command, core=core, log=folder / SERVER_LOG, environ=_environ())
        ending.callback(end, process)
        wait_until_it_listens(process, port, START_TIMEOUT_S)
        if subject.kind == "everywire" and not subject.tls:
            ending.enter_context(_state_of(subject, port))
        yield Running(process.pid, port, subject.kind, certificate)


def _command(
    subject: Subject, tools: Tools, port: int, folder: Path, certificate: Path | None
) -> list[str | Path]:
    match subject.kind:
        case "baseline":
            return [tools.baseline, str(port)]
        case "nchan":
            return _nchan_command(port, folder)
        case "node-socketio":
            return [*find_node_socketio(), str(port), *(["recovery"] if subject.has_recovery else [])]
        case "python-socketio":
            return [sys.executable, find_python_socketio(), str(port)]
        case _:
            return _everywire_command(subject, port, folder, certificate)


@contextmanager
def _state_of(subject: Subject, port: int) -> Iterator[None]:
    """Fill the window, and make the other channels with a reader on each."""
    if subject.window is not None:
        publish_to(port, ["bench"] * subject.window)
    others = [f"other-{number}" for number in range(subject.other_channels)]
    publish_to(port, others)
    with watch(port, others):
        yield


def _environ() -> dict[str, str]:
    """Return our environment, with this package in reach and without settings of ours."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EVERYWIRE_")}
    package_root = str(Path(__file__).resolve().parents[2])
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, environ.get("PYTHONPATH", "")]))
    return environ


def _everywire_command(
    subject: Subject, port: int, folder: Path, certificate: Path | None
) -> list[str | Path]:
    """Write the settings of a subject, and return the command that serves with them.

    Everything is as users have it: log lines, limits and metrics on. A short drain only spares us
    waiting for readers that have gone.
    """
    config = folder / "everywire.toml"
    window = "" if subject.window is None else f"window = {{ max_publications = {subject.window} }}\n"
    config.write_text(
        f'drain_s = 0.5\nstate_dir = "{folder}/state"\n\n'
        f'[[channels]]\npattern = "*"\nheartbeat_s = {subject.heartbeat_s}\n{window}',
        "utf-8",
    )
    command: list[str | Path] = [
        sys.executable, "-m", "everywire", "serve", "--dev", "--host", "127.0.0.1", "--port", str(port),
        "--config", config,
    ]  # fmt: skip
    if subject.workers > 1:
        command += ["--workers", str(subject.workers)]
    if certificate is not None:
        command += ["--tls-cert", certificate]
    return command


def _nchan_command(port: int, folder: Path) -> list[str | Path]:
    nchan = find_nchan()
    conf = folder / "nginx.conf"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(files, MAX_FILES)
    text = NCHAN_CONF.format(
        module=nchan.module, folder=folder, port=port, files=files, connections=files - SPARE_FILES
    )
    conf.write_text(text, "utf-8")
    return [nchan.nginx, "-p", folder, "-e", "stderr", "-c", conf]


def make_certificate(folder: Path) -> Path:
    """Make a self-signed certificate and its key, for loopback, in one PEM file."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [
        str(find_openssl()), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=CERTIFICATE_TIMEOUT_S)
    certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
    return certificate
