"""The JavaScript client and who may do what: tokens, tickets, refusals, what applications add."""

from __future__ import annotations

from typing import Any

from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from tests.e2e.conftest import run_node
from tests.e2e.test_js_client import SCRIPTS
from tests.serving import serving

SECRET = "a-secret-of-tokens-that-is-long-enough"
RULES = {
    Action.READ: ("inbox:{user}", "board-*"),
    Action.PUBLISH: ("inbox:{user}",),
    Action.PRESENCE: ("inbox:{user}", "board-*"),
}


async def told() -> dict[str, Any]:
    async with serving("own", ("", ""), dev=False, tokens=Tokens(secret=SECRET), user_rules=RULES) as site:
        wire = site.wire

        @wire.rpc("who")
        async def who(session: Any, data: Any) -> str:
            return str(session.user)

        @wire.rpc("block")
        async def block(session: Any, data: Any) -> None:
            await wire.block(session.user)

        @wire.rpc("publish")
        async def publish(session: Any, data: Any) -> None:
            await wire.publish(data["channel"], data["data"])

        @wire.snapshot("board-*")
        async def state(session: Any, channel: str) -> dict[str, str]:
            return {"of": channel}

        @wire.on_message
        async def heard(session: Any, data: Any) -> None:
            await session.send({"echo": data})

        return dict(await run_node(SCRIPTS / "access.mjs", site.url, SECRET))


async def test_who_may_do_what_on_every_transport() -> None:
    for transport, met in (await told()).items():
        for step, found in met.items():
            assert "error" not in found, f"{transport}, {step}: {found['error']}"
        is_poll = transport.endswith("poll")

        short = met["short"]
        assert short["seen"] == list(range(12)), transport
        assert short["losses"] == [] and short["tokens"] >= 3, (transport, short)

        assert met["expired"]["left"] == 0 and met["expired"]["outcome"] == "new", transport
        assert met["expired"]["attempts"] == ["expired", "won"], (transport, met["expired"])

        assert met["bad"]["forged"]["code"] in (101, 3500), transport
        assert met["bad"]["expired"]["code"] == 109, transport
        for bad in met["bad"].values():
            assert (bad["state"], bad["attempts"]) == ("disconnected", 1), (transport, met["bad"])

        assert met["others"]["codes"] == [103] * 4, (transport, met["others"])
        assert met["others"]["foreign"] in (103, 3500), (transport, met["others"])

        assert met["blocked"]["isQuiet"], transport
        assert met["blocked"]["losses"][-1]["willReconnect"] is False, (transport, met["blocked"])

        assert met["ticket"] == {"user": f"tim-{transport}"}

        application = met["application"]
        assert application["seen"] == [[f"mine-pat-{transport}", "for you"]], transport
        assert application["snapshot"] == {"of": f"board-{transport}"}, transport
        if not is_poll:
            assert application["messages"] == [{"echo": "hello"}]
