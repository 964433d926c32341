"""TLS: handshakes, deadlines, and certificates that change while the server runs."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import ssl
from pathlib import Path

import pytest
import websockets

from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.options import Address
from tests.client.certificates import make_certificate
from tests.server.driving import DEADLINE_S, Client, Site, running, until


def address(certificate: tuple[str, str]) -> Address:
    return Address(port=0, tls_cert=certificate[0], tls_key=certificate[1])


def trusting(certificate: tuple[str, str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])


async def served_certificate(site: Site) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = await site.connect(ssl=context)
    client.send(site.get("/"))
    assert (await client.response()).status == 200
    return bytes(client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))


async def test_everything_over_tls(certificate: tuple[str, str]) -> None:
    async with running(listen=(address(certificate),)) as site:
        client = await site.connect(ssl=trusting(certificate))
        client.send(site.get("/about"))
        assert (await client.response()).body == b"https a.test 127.0.0.1 True GET"
        client.send(site.get("/whole") + site.get("/echo", "Content-Length: 2", method="POST") + b"hi")
        assert (await client.response()).body == b"one two three"
        assert (await client.response()).body == b"hi"
        assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        client.send(b"nonsense\r\n\r\n")
        assert (await client.response()).status == 400
        assert await client.is_closed()
        client = await site.connect(ssl=trusting(certificate))
        client.send(site.get("/", "Content-Length: 1000000", method="POST") + b"x" * 100_000)
        assert (await client.response()).status == 200
        client.close()
        url = f"wss://127.0.0.1:{site.port}/socket"
        async with websockets.connect(url, ssl=trusting(certificate), proxy=None) as channel:
            await channel.send(b"x" * 500_000)
            assert await channel.recv() == b"x" * 500_000


async def test_back_pressure_over_tls(certificate: tuple[str, str]) -> None:
    async with running(listen=(address(certificate),)) as site:
        client = await site.connect(ssl=trusting(certificate), limit=1000)
        client.send(site.get("/stream"))
        await until(lambda: site.handlers.drivers)
        driver = site.handlers.drivers[0]
        assert driver.exchange is not None
        for _ in range(4):
            driver.exchange.write(driver.exchange.framing.frame(b"x" * 2_000_000))
            if driver.heard:
                break
        assert driver.heard == ["stalled"]
        async with asyncio.timeout(DEADLINE_S):
            while "writable" not in driver.heard:
                await client.reader.read(1 << 20)


async def test_the_driver_hears_that_a_tls_peer_is_gone(certificate: tuple[str, str]) -> None:
    async with running(listen=(address(certificate),)) as site:
        client = await site.connect(ssl=trusting(certificate))
        client.send(site.get("/stream"))
        await client.reader.readuntil(b"first ")
        client.close()
        await until(lambda: site.handlers.drivers[0].is_gone)
        assert len(site.handlers.drivers[0].heard) == 1


async def test_handshakes_that_fail_are_counted(certificate: tuple[str, str]) -> None:
    limits = Limits(tls_handshake_timeout_s=0.4)
    async with running(listen=(address(certificate),), limits=limits) as site:
        plain = await site.connect()
        plain.send(site.get("/"))
        with pytest.raises((ConnectionError, AssertionError, EOFError)):
            await plain.response()
        silent = await site.connect()
        assert await silent.is_closed()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await site.connect(ssl=old)

        def failures() -> int:
            gc.collect()
            return site.server.metrics.handshake_failures

        await until(lambda: failures() == 3)
        assert site.server.metrics.accepted == 0
        client = await site.connect(ssl=trusting(certificate))
        client.send(site.get("/"))
        assert (await client.response()).status == 200
        assert failures() == 3


async def test_a_new_certificate_is_used_for_new_connections_and_a_bad_one_is_not(tmp_path: Path) -> None:
    for name in ("live", "next"):
        (tmp_path / name).mkdir()
    live, following = make_certificate(tmp_path / "live"), make_certificate(tmp_path / "next")
    async with running(listen=(address(live),)) as site:
        old = await site.connect(ssl=trusting(live))
        old.send(site.get("/stream"))
        await old.reader.readuntil(b"first ")
        first = await served_certificate(site)
        shutil.copy(following[0], live[0])  # the certificate without its key
        site.server.reload()
        assert await served_certificate(site) == first
        shutil.copy(__file__, live[0])
        site.server.reload()
        assert await served_certificate(site) == first
        shutil.copy(following[0], live[0])
        shutil.copy(following[1], live[1])
        site.server.reload()
        second = await served_certificate(site)
        assert second != first
        os.unlink(live[1])
        site.server.reload()
        assert await served_certificate(site) == second
        driver = site.handlers.drivers[0]
        assert driver.exchange is not None
        driver.exchange.finish(driver.exchange.framing.frame(b"still here"))
        assert b"still here" in await old.reader.readuntil(b"0\r\n\r\n")


async def test_a_certificate_that_cannot_be_loaded_is_named(
    certificate: tuple[str, str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nonsense")
    with pytest.raises(SettingsError, match=r"bad\.pem"):
        async with running(listen=(Address(port=0, tls_cert=str(bad)),)):
            pass
    with pytest.raises(SettingsError, match="cannot be loaded"):
        async with running(listen=(Address(port=0, tls_cert=certificate[0], tls_key=str(bad)),)):
            pass


async def test_drain_over_tls(certificate: tuple[str, str]) -> None:
    async with running(listen=(address(certificate),)) as site:
        idle: Client = await site.connect(ssl=trusting(certificate))
        idle.send(site.get("/"))
        await idle.response()
        streaming = await site.connect(ssl=trusting(certificate))
        streaming.send(site.get("/stream"))
        await streaming.reader.readuntil(b"first ")
        draining = asyncio.ensure_future(site.server.drain(DEADLINE_S))
        assert await idle.is_closed()
        assert b"bye" in await streaming.rest()
        streaming.close()
        assert await draining is True
