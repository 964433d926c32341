"""What the suites of others need, found or made: interpreters, packages, and their repositories.

Whatever is made lies in a folder that git ignores, once for every version of what is asked for. What
cannot be had is told by `Missing`, never passed over.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = [
    "Missing",
    "find_interpreter",
    "find_node",
    "node_environment",
    "python27_environment",
    "repository",
]

VIRTUALENV: Final = "virtualenv==20.21.1"
"""The last one that makes an environment for Python 2.7."""

INSTALL_TIMEOUT_S: Final = 600
LEAST_NODE: Final = 20


class Missing(Exception):
    """Something that a suite needs is not here."""


def repository(owner_and_name: str, environ: Mapping[str, str]) -> Path:
    """Return the folder of a checked-out repository below EVERYWIRE_SUITES: ``name``, or ``owner/name``."""
    folder = environ.get("EVERYWIRE_SUITES")
    hint = f"https://github.com/{owner_and_name}, checked out in the folder that EVERYWIRE_SUITES names"
    if not folder:
        raise Missing(f"{hint}: EVERYWIRE_SUITES is not set")
    for name in (owner_and_name.partition("/")[2], owner_and_name):
        if (found := Path(folder) / name).is_dir():
            return found
    raise Missing(f"{hint}: it is not in {folder}")


def find_interpreter(environ: Mapping[str, str], *, suite: str) -> str:
    """Return a Python 2.7 that runs: what EVERYWIRE_PYTHON27 says, else one on PATH."""
    told = environ.get("EVERYWIRE_PYTHON27")
    candidate = told or shutil.which("python2.7", path=environ.get("PATH"))
    hint = "set EVERYWIRE_PYTHON27 to the path of a Python 2.7 interpreter"
    if candidate is None:
        raise Missing(f"Python 2.7, which the {suite} suite runs under: no python2.7 on PATH; {hint}")
    try:
        found = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"Python 2.7: {candidate} does not run ({error}); {hint}") from None
    version = found.stdout.strip()
    if version != "2.7":
        said = (version and f"is {version}") or "does not run"
        raise Missing(f"Python 2.7: {candidate} {said}; {hint}")
    return candidate


def python27_environment(folder: Path, packages: Sequence[str], *, suite: str) -> Path:
    """Make an environment of Python 2.7 with these packages in the folder, once; return its ``bin``.

    Raises `Missing` without Python 2.7, or when a package cannot be installed.
    """
    environment = folder / "python2.7"
    stamp = environment / "installed"
    wanted = "\n".join(packages)
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return environment / "bin"
    interpreter = find_interpreter(os.environ, suite=suite)
    print(f"making the suite's environment ({', '.join(packages)}) …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    maker = folder / "maker"
    _install([sys.executable, "-m", "venv", str(maker)], "venv")
    _install([*_pip(maker), VIRTUALENV], VIRTUALENV)
    _install([str(maker / "bin" / "python"), "-m", "virtualenv", "-q", "-p", interpreter, str(environment)],
             f"virtualenv for {interpreter}")  # fmt: skip
    _install([*_pip(environment), *packages], wanted.replace("\n", ", "))
    stamp.write_text(wanted, "utf-8")
    return environment / "bin"


def find_node(environ: Mapping[str, str]) -> str:
    """Return a Node that is new enough, from PATH or the project's own environment."""
    search = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    node = shutil.which("node", path=search)
    if node is None or shutil.which("npm", path=search) is None:
        raise Missing(f"Node {LEAST_NODE} or newer, with npm, on PATH")
    asked = [node, "-p", "process.versions.node.split('.')[0]"]
    version = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    if not version.isdigit() or int(version) < LEAST_NODE:
        raise Missing(f"Node {LEAST_NODE} or newer: {node} is {version or 'not running'}")
    return node


def node_environment(folder: Path, packages: Mapping[str, str]) -> str:
    """Make a folder with these npm packages (name to version), once; return the Node to run there."""
    node = find_node(os.environ)
    stamp = folder / "installed.json"
    wanted = json.dumps(packages)
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return node
    print(f"installing {', '.join(packages)} …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest = {"name": "suites", "private": True, "type": "module", "dependencies": packages}
    (folder / "package.json").write_text(json.dumps(manifest), "utf-8")
    npm = shutil.which("npm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert npm is not None
    flags = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    _install([npm, "install", *flags], "npm packages", cwd=folder)
    stamp.write_text(wanted, "utf-8")
    return node


def _pip(environment: Path) -> list[str]:
    return [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]


def _install(command: list[str], what: str, cwd: Path | None = None) -> None:
    # Python 2.7 has its own idea of where packages are: nothing of ours may reach it.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, env=environ, cwd=cwd
    )
    if done.returncode:
        last_lines = "\n    ".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-5:])
        raise Missing(f"{what} could not be installed:\n    {last_lines}")
