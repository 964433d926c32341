"""The programs that a measurement needs: found, built, or told missing in one sentence."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Missing",
    "Tools",
    "build",
    "find_engine",
    "find_nchan",
    "find_node_socketio",
    "find_openssl",
    "find_python_socketio",
]

C_FLAGS = ("-O2", "-Wall", "-Wextra", "-std=gnu11")
COMPILE_TIMEOUT_S = 120.0

NCHAN_MODULE = "ngx_nchan_module.so"
MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules")


class Missing(Exception):
    """Something that must be there is not; the sentence says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The C programs, built."""

    loadgen: Path
    baseline: Path


@dataclass(frozen=True, slots=True)
class Nchan:
    """nginx and its Nchan module."""

    nginx: Path
    module: Path


def sources() -> Path:
    """Return the folder of the C sources, which only a clone of the project has."""
    folder = Path(__file__).resolve().parents[3] / "lab"
    if not (folder / "baseline.c").is_file():
        raise Missing(f"the benchmark runs from a clone of the project: there is no {folder}/baseline.c")
    return folder


def build() -> Tools:
    """Build the C programs into `lab/build`, unless they are newer than their sources."""
    folder = sources()
    generator = sorted((folder / "loadgen").glob("*.c"))
    header = folder / "loadgen" / "loadgen.h"
    return Tools(
        loadgen=_compile(folder / "build" / "loadgen", generator, [header], ["-lm"]),
        baseline=_compile(folder / "build" / "baseline", [folder / "baseline.c"], [], []),
    )


def _compile(program: Path, parts: list[Path], headers: list[Path], libraries: list[str]) -> Path:
    newest = max(path.stat().st_mtime for path in [*parts, *headers])
    if program.is_file() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        raise Missing("there is no C compiler: apt-get install gcc libc6-dev")
    program.parent.mkdir(exist_ok=True)
    # Under a name of its own first: two runs at once must not see each other's half of a file.
    unfinished = program.with_name(f"{program.name}.{os.getpid()}")
    command = [compiler, *C_FLAGS, "-o", str(unfinished), *map(str, parts), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    if done.returncode != 0:
        raise Missing(f"{program.name} cannot be built (apt-get install gcc libc6-dev?):\n{done.stderr}")
    unfinished.replace(program)
    return program


def _find_server(name: str) -> str | None:
    """Look also where Debian keeps some servers, and only root looks for programs."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def find_engine(broker: str) -> Path:
    """Find the engine of a broker, redis or nats."""
    name = f"{broker}-server"
    found = _find_server(name)
    if found is None:
        raise Missing(f"there is no {name}: apt-get install {name}")
    return Path(found)


def find_nchan() -> Nchan:
    """Find nginx and its Nchan module."""
    nginx = _find_server("nginx")
    if nginx is None:
        raise Missing("there is no nginx: apt-get install nginx libnginx-mod-nchan")
    for folder in MODULE_FOLDERS:
        module = Path(folder) / NCHAN_MODULE
        if module.is_file():
            return Nchan(Path(nginx), module)
    raise Missing("nginx is here without its Nchan module: apt-get install libnginx-mod-nchan")


def find_node_socketio() -> tuple[Path, Path]:
    """Find Node and the server that runs npm's socket.io on it."""
    here = str(Path(sys.executable).parent)
    node = shutil.which("node", path=os.pathsep.join([here, os.environ.get("PATH", "")]))
    if node is None:
        raise Missing("there is no Node for a peer: tools/setup.sh bench, or apt-get install nodejs npm")
    server = sources() / "peers" / "node_socketio.mjs"
    if not (server.parent / "node_modules" / "socket.io" / "package.json").is_file():
        raise Missing(f"npm's socket.io is not in {server.parent}: tools/setup.sh bench")
    return Path(node), server


def find_python_socketio() -> Path:
    """Find the server that runs python-socketio on uvicorn, and both of them in this environment."""
    for module in ("socketio", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise Missing(f"there is no Python module {module} for a peer: tools/setup.sh bench")
    return sources() / "peers" / "python_socketio.py"


def find_openssl() -> Path:
    """Find the openssl command, which makes the certificate for TLS readers."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Missing("there is no openssl command for a certificate: apt-get install openssl")
    return Path(openssl)
