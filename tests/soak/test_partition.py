"""Two nodes in network namespaces of their own, and the link between them cut for a while.

The engine stands beside one of them. What was acknowledged to either is what both are told, once and in one
order; the node that is cut off tells its publishers so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.engines import free_port, program

CUT_S: Final = 20.0
WHOLE_S: Final = 3.0
HERE, THERE = "10.77.31.1", "10.77.31.2"
ROOT: Final = Path(__file__).parent.parent.parent


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10.0)


class Link:
    """Two namespaces of this process and the cable between them."""

    def __init__(self) -> None:
        self.near, self.far = f"ew{os.getpid()}a", f"ew{os.getpid()}b"

    def cut(self) -> None:
        ip("-n", self.far, "link", "set", "cable", "down")

    def heal(self) -> None:
        ip("-n", self.far, "link", "set", "cable", "up")


@pytest.fixture
def link() -> Iterator[Link]:
    program("ip", "iproute2")
    if os.geteuid():
        sentence = "network namespaces need root"
        pytest.fail(sentence) if os.environ.get("CI") else pytest.skip(sentence)
    link = Link()
    with ExitStack() as ending:
        for name in (link.near, link.far):
            ip("netns", "add", name)
            ending.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        peer = ("peer", "name", "cable", "netns", link.far)
        ip("-n", link.near, "link", "add", "cable", "type", "veth", *peer)
        for name, address in ((link.near, HERE), (link.far, THERE)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield link


@contextmanager
def inside(name: str, command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a namespace, and end it afterwards."""
    with log.open("a") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=output, text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def engine(kind: str, folder: Path) -> tuple[list[str], str]:
    port = free_port()
    if kind == "redis":
        server = program("redis-server", "redis-server")
        command = [server, "--port", str(port), "--bind", HERE, "--protected-mode", "no", "--save", ""]
        return [*command, "--dir", str(folder)], f"redis://{HERE}:{port}/0"
    server = program("nats-server", "nats-server")
    return [server, "-a", HERE, "-p", str(port), "-js", "-sd", str(folder)], f"nats://{HERE}:{port}"


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("kind", ["redis", "nats"])
def test_what_was_acknowledged_on_either_side_is_told_on_both(link: Link, tmp_path: Path, kind: str) -> None:
    command, url = engine(kind, tmp_path / "engine")
    (tmp_path / "engine").mkdir()
    node = [sys.executable, "-m", "tests.soak.partitioned_node", url]
    with ExitStack() as stack:
        stack.enter_context(inside(link.near, command, tmp_path / "engine.log"))
        time.sleep(1.0)
        nodes = [
            stack.enter_context(inside(place, [*node, name], tmp_path / f"{name}.log"))
            for place, name in ((link.near, "near"), (link.far, "far"))
        ]
        for process in nodes:
            assert hear(process) == "ready", (tmp_path / "far.log").read_text()
        for process in nodes:
            tell(process)
        time.sleep(WHOLE_S)
        link.cut()
        time.sleep(CUT_S)
        link.heal()
        time.sleep(2 * WHOLE_S)
        for process in nodes:
            tell(process)
        time.sleep(2 * WHOLE_S)
        for process in nodes:
            tell(process)
        near, far = (json.loads(hear(process)) for process in nodes)
    check(near, far)


def check(near: dict[str, Any], far: dict[str, Any]) -> None:
    assert near["ready"] and far["ready"]
    assert near["told"] == far["told"]
    told = near["told"]
    assert len(set(told)) == len(told), "something was told twice"
    assert not near["gaps"] and not far["gaps"]
    for side in (near, far):
        in_order = [data for _, data in sorted(side["acknowledged"])]
        assert [data for data in told if data in set(in_order)] == in_order
    assert len(near["acknowledged"]) > 50 * (CUT_S + 3 * WHOLE_S), "the near side publishes all the time"
    assert not near["failed"]
    assert len(far["failed"]) > 0.3 * 100 * CUT_S, "whoever is cut off tells its publishers"
    assert len(far["acknowledged"]) > 100 * WHOLE_S
