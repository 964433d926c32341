"""Every test of the transports runs on every host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from tests.client.certificates import make_certificate
from tests.serving import HOSTS, Site, serving

Serve = Callable[..., AbstractAsyncContextManager[Site]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """Run on the loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The paths of a certificate for 127.0.0.1 and of its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=HOSTS)
def serve(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> Serve:
    """Start a server with options of one's own: ``async with serve(limits=…) as site``."""
    return partial(serving, request.param, certificate)


@pytest_asyncio.fixture
async def site(serve: Serve) -> AsyncIterator[Site]:
    """A server in development mode."""
    async with serve() as site:
        yield site
