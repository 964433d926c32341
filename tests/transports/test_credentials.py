"""Where a credential may stand, what it is good for there, and tickets: on every plain wire."""

from __future__ import annotations

from typing import Any, Final

import pytest

from everywire.core.limits import Limits
from tests.readers import READERS, Refused, data, page, take
from tests.serving import Site
from tests.transports.conftest import Serve
from tests.transports.known import bearer, knowing, token

KEY: Final = {"api_keys": {"service": "sesame-sesame"}}
JSON: Final = {"Content-Type": "application/json"}


async def reads(site: Site, name: str, headers: dict[str, str] | None = None, **query: Any) -> list[Any]:
    """Return the first thing that a wire reads of a channel with one publication."""
    items = READERS[name](site, "a", headers, after="earliest", **query)
    try:
        return data(await take(items, 1))
    finally:
        await items.aclose()


async def refusal(
    site: Site, name: str, headers: dict[str, str] | None = None, **query: Any
) -> tuple[int, int]:
    """Return with what status and code a wire refuses."""
    with pytest.raises(Refused) as refused:
        await reads(site, name, headers, **query)
    return refused.value.status, refused.value.error["code"]


async def ticket(site: Site, headers: dict[str, str] | None = None) -> str:
    """Ask for a ticket, which must be given."""
    answer = await site.http.post("/ticket", headers=headers)
    assert answer.status_code == 201, answer.text
    given: str = answer.json()["ticket"]
    return given


@pytest.mark.parametrize("name", READERS)
async def test_a_credential_counts_wherever_it_may_stand(serve: Serve, name: str) -> None:
    async with serve(**knowing(**KEY, cookie_name="auth")) as site:
        await site.publish("a", 1)
        places: list[tuple[dict[str, str], dict[str, Any]]] = [
            (bearer("ann"), {}),
            ({"Authorization": f"bearer  {token('ann')}"}, {}),
            ({"Authorization": "Bearer sesame-sesame"}, {}),
            ({"Authorization": "ApiKey sesame-sesame"}, {}),
            ({"X-API-Key": "sesame-sesame"}, {}),
            ({"Cookie": f"other=1; auth={token('ann')}; more=2"}, {}),
            ({}, {"token": token("ann", 30.0)}),
            ({}, {"ticket": await ticket(site, bearer("ann"))}),
            ({"Authorization": f"Bearer {await ticket(site, bearer('ann'))}"}, {}),
        ]
        for headers, query in places:
            assert await reads(site, name, headers, **query) == [1], (headers, query)


@pytest.mark.parametrize("name", READERS)
async def test_one_that_is_no_good_is_refused_wherever_it_stands(serve: Serve, name: str) -> None:
    async with serve(**knowing(**KEY, cookie_name="auth", public={}, user_rules={})) as site:
        good = bearer("ann")
        assert await refusal(site, name) == (401, 101)
        assert await refusal(site, name, good) == (403, 103)
        for headers, query in (
            ({"Authorization": "Bearer nonsense"}, {}),
            ({"Authorization": "Bearer"}, {}),
            ({"Authorization": "Basic YW5uOmFubg=="}, {}),
            ({"X-API-Key": "nonsense", **good}, {}),
            ({"Cookie": "auth=nonsense"}, {}),
            ({}, {"token": "nonsense"}),
            ({}, {"token": token("ann", 600.0)}),
            ({}, {"token": token("ann")}),
            ({}, {"token": "sesame-sesame"}),
            ({}, {"ticket": "t." + "x" * 43}),
            ({}, {"ticket": "sesame-sesame"}),
            ({}, {"ticket": ""}),
        ):
            assert await refusal(site, name, headers, **query) == (401, 101), (headers, query)
        assert await refusal(site, name, bearer("ann", -1.0)) == (401, 109)
        assert await refusal(site, name, {}, token=token("ann", -1.0)) == (401, 109)


@pytest.mark.parametrize("name", READERS)
async def test_a_ticket_works_once_wherever_it_stands(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        await site.publish("a", 1)
        one = await ticket(site, bearer("ann"))
        assert await reads(site, name, {}, ticket=one) == [1]
        assert await refusal(site, name, {}, ticket=one) == (401, 101)
        # Header fields are the same from request to request, and what they proved is remembered; not this.
        shown = {"Authorization": f"Bearer {await ticket(site, bearer('ann'))}"}
        assert await reads(site, name, shown) == [1]
        assert await refusal(site, name, shown) == (401, 101)


async def test_a_ticket_is_of_one_origin(serve: Serve) -> None:
    origins = {"Origin": "https://page.example"}, {"Origin": "https://other.example"}
    async with serve(**knowing(allowed_origins=[one["Origin"] for one in origins])) as site:
        await site.publish("a", 1)
        for given, shown, is_good in (
            (origins[0], origins[0], True),
            (origins[0], origins[1], False),
            (origins[0], {}, False),
            ({}, origins[0], False),
            # EventSource names no origin to its own server, but browsers say that it is the same.
            ({"Origin": site.url}, {"Sec-Fetch-Site": "same-origin"}, True),
        ):
            one = await ticket(site, {**bearer("ann"), **given})
            answer = await site.http.get(f"/channels/a?ticket={one}", headers=shown)
            assert answer.status_code == (200 if is_good else 401), (given, shown)
            if given is not shown and not is_good:
                # It has leaked, and is used up.
                again = await site.http.get(f"/channels/a?ticket={one}", headers=given)
                assert again.status_code == 401


async def test_asking_for_a_ticket(serve: Serve) -> None:
    async with serve(**knowing(cookie_name="auth")) as site:
        answer = await site.http.post("/ticket", headers=bearer("ann"))
        assert answer.status_code == 201
        assert answer.json().keys() == {"ticket", "expires_in"}
        assert answer.json()["expires_in"] == 30
        assert answer.json()["ticket"].startswith("t.")
        assert "no-store" in answer.headers["cache-control"]

        statuses = {}
        cookie = {"Cookie": f"auth={token('ann')}"}
        for case, headers, query in (
            ("nobody", {}, ""),
            ("nonsense", {"Authorization": "Bearer nonsense"}, ""),
            ("a ticket", {"Authorization": f"Bearer {answer.json()['ticket']}"}, ""),
            ("in the query", {}, f"?token={token('ann', 30.0)}"),
            ("cookie", cookie, ""),
            ("cookie, JSON", {**cookie, **JSON}, ""),
            ("cookie, a form", {**cookie, "Content-Type": "text/plain"}, ""),
            ("foreign", {**bearer("ann"), "Origin": "https://evil.example"}, ""),
        ):
            statuses[case] = (await site.http.post(f"/ticket{query}", headers=headers)).status_code
        assert statuses == {
            "nobody": 401,
            "nonsense": 401,
            "a ticket": 403,
            "in the query": 400,
            "cookie": 403,
            "cookie, JSON": 201,
            "cookie, a form": 403,
            "foreign": 403,
        }
        wrong = await site.http.get("/ticket", headers=bearer("ann"))
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")


async def test_a_page_of_a_listed_origin_may_ask_with_its_cookie(serve: Serve) -> None:
    page_ = {"Origin": "https://page.example"}
    options = {"allowed_origins": ["https://page.example"], "allow_credentials": True, "cookie_name": "auth"}
    async with serve(**knowing(**options)) as site:
        asked = {**page_, "Access-Control-Request-Method": "POST"}
        preflight = await site.http.options("/ticket", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://page.example"
        answer = await site.http.post("/ticket", headers={**page_, "Cookie": f"auth={token('ann')}"})
        assert answer.status_code == 201
        assert answer.headers["access-control-allow-credentials"] == "true"


async def test_nobody_may_ask_for_tickets_without_end(serve: Serve) -> None:
    async with serve(**knowing(limits=Limits(tickets_per_minute=2))) as site:
        answers = [await site.http.post("/ticket", headers=bearer("ann")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        assert (await site.http.post("/ticket", headers=bearer("bob"))).status_code == 201


async def test_what_changes_something_needs_more_than_a_cookie(serve: Serve) -> None:
    async with serve(**knowing(cookie_name="auth")) as site:
        cookie = {"Cookie": f"auth={token('ann')}"}
        for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}):
            answer = await site.http.post("/channels/a", content=b"1", headers={**cookie, **headers})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, 126)
            answer = await site.http.request("DELETE", "/channels/a", headers={**cookie, **headers})
            assert answer.status_code == 403
        answer = await site.http.post("/channels/a", content=b"1", headers={**cookie, **JSON})
        assert answer.status_code == 201
        # With another credential beside it, it is not the cookie that counts.
        answer = await site.http.post("/channels/a", content=b"2", headers={**cookie, **bearer("bob")})
        assert answer.status_code == 201
        assert data((await page(site, "a", cookie))["publications"]) == [1, 2]


async def test_changes_take_a_credential_in_the_query_as_reading_does(serve: Serve) -> None:
    async with serve(**knowing()) as site:
        short = token("ann", 30.0)
        assert (await site.http.post(f"/channels/a?event=x&token={short}", content=b"1")).status_code == 201
        one = await ticket(site, bearer("ann"))
        assert (await site.http.post(f"/channels/a?ticket={one}", content=b"2")).status_code == 201
        assert (await site.http.post(f"/channels/a?ticket={one}", content=b"3")).status_code == 401
        assert (await site.http.post(f"/channels/a?token={token('ann')}", content=b"3")).status_code == 401
        answer = await site.http.get(f"/channels/a/history?token={short}")
        assert data(answer.json()["publications"]) == [1, 2]
        assert (await site.http.get(f"/channels/a/presence?token={short}")).status_code == 200
        assert (await site.http.delete(f"/channels/a?tag=x&token={short}")).status_code == 400
        assert (await site.http.delete(f"/channels/a?token={short}")).status_code == 204


async def test_a_credential_of_one_request_is_not_that_of_the_next(serve: Serve) -> None:
    """The same connection, the same header fields, another query."""
    async with serve(**knowing()) as site:
        await site.publish("a", 1)
        for _ in range(2):
            assert await refusal(site, "poll") == (401, 101)
            assert (await page(site, "a", token=token("ann", 30.0)))["publications"]
        twice = await site.http.get(f"/channels/a?token={token('ann', 30.0)}&token={token('bob', 30.0)}")
        assert twice.status_code == 400


async def test_cookies_of_other_applications_are_no_matter(serve: Serve) -> None:
    async with serve(**knowing(cookie_name="auth")) as site:
        await site.publish("a", 1)
        value = token("ann")
        for cookies, is_good in (
            (f'auth="{value}"', True),
            (f"a; =b; c=;;; auth={value}; \u00e4=1", True),
            (f"Auth={value}", False),
            (f"xauth={value}", False),
            (f"auth={value}; auth=nonsense", True),
            (f"auth=nonsense; auth={value}", False),
            ("; ".join(f"c{n}={n}" for n in range(90)) + f"; auth={value}", True),
        ):
            answer = await site.http.get("/channels/a", headers={b"cookie": cookies.encode("latin-1")})  # type: ignore[dict-item]
            assert answer.status_code == (200 if is_good else 401), cookies
