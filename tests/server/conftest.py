"""Everything the host does is tested on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from tests.client.certificates import make_certificate


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """Run on uvloop and on asyncio's own loop; what is all in other processes, once."""
    if item.path.name == "test_workers.py":
        return {"uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The paths of a certificate for 127.0.0.1 and of its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
