"""Handlers are tested on our own host and under an ASGI server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from tests.client.certificates import make_certificate
from tests.serving import Site, serving

Serve = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The paths of a certificate for 127.0.0.1 and of its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["own", "asgi"])
def serve(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> Serve:
    """Start a server with options of one's own: ``async with serve(limits=…) as site``."""
    return partial(serving, request.param, certificate)
