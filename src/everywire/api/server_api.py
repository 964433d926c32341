"""The server HTTP API: ``POST /api/{method}``, in the shape of Centrifugo's: its server libraries work.

The body is a JSON object. The answer is 200 with ``{"result": …}`` or ``{"error": {"code", "message"}}``;
with ``X-Centrifugo-Error-Mode: transport`` an error is an HTTP status and the bare object. ``batch`` is
answered ``{"replies": [{method: result} or {"error": …}]}`` without an envelope. A body that is no JSON
object is 400, another method than POST 405, a missing or wrong key 401 with an empty body.

The key is an API key of the settings, in ``X-API-Key: K``, ``Authorization: apikey K`` or ``Bearer K``.
Without one only this machine may come, and only in development mode. A key in the URL (``?api_key=``) is
refused: URLs stay in logs. Pages of browsers have no business here: there is no CORS, and the gate is asked
first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Raw

from everywire.access.identity import NOBODY, Identity
from everywire.api.methods import ApiCaller, Methods, error_object
from everywire.api.requests import BatchRequest, decode_request
from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError
from everywire.sessions.shared import Shared
from everywire.transports.exchange import Exchange, Headers, Request
from everywire.transports.gate import Gate, Refusal
from everywire.transports.service import JSON_TYPE, WholeAnswer, refuse

__all__ = ["ServerApi"]

PREFIX: Final = "/api/"
_NO_STORE: Final = (b"cache-control", b"private, no-store")
_HEADERS: Final = (JSON_TYPE, _NO_STORE, (b"x-content-type-options", b"nosniff"))
_MAX_PARALLEL: Final = 64
_STATUSES: Final[Mapping[int, int]] = {100: 500, 102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}
"""The reference's HTTP statuses of codes in the transport error mode; others have their own."""
_log = logging.getLogger("everywire.api")
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class ServerApi:
    """Answers ``POST /api/{method}``.

    Args:
        shared: the parts of the server.
        name: this node's name for people; by default its id.
        version: the version of the software.
        gate: is asked before anything else; None means that the caller has asked it.
    """

    def __init__(
        self, shared: Shared, name: str = "", version: str = "", *, gate: Gate | None = None
    ) -> None:
        self._shared = shared
        self._rules = shared.authority.rules
        self._gate = gate
        self._methods = Methods(shared, name, version or shared.version)

    def __call__(self, exchange: Exchange) -> None:
        """Answer a request whose path begins with ``/api/``."""
        request = exchange.request
        exchange.attend(WholeAnswer(), "api")
        admitted = () if self._gate is None else self._gate.admit(request)
        if isinstance(admitted, Refusal):
            refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
            return
        try:
            caller = ApiCaller(self._identify(request), request.peer)
        except EverywireError as error:
            _refuse_key(exchange, error)
            return
        if request.method != "POST":
            wrong = RequestError("methods of the API are called with POST", code=codes.METHOD_NOT_FOUND)
            refuse(exchange, wrong, (), [(b"allow", b"POST")])
            return
        exchange.read_body(self._shared.limits.max_body_bytes, partial(self._take, exchange, caller))

    def _identify(self, request: Request) -> Identity:
        """Return who calls; raises an error with code 101."""
        key = _key_of(request)
        if key is not None:
            return self._rules.identify(key)
        if b"api_key=" in b"&" + request.query.encode("latin-1", "replace"):
            raise RequestError("a key in the URL is refused, send X-API-Key", code=codes.UNAUTHORIZED)
        if self._rules.is_dev and request.is_local:
            return NOBODY
        raise RequestError("an API key is needed", code=codes.UNAUTHORIZED)

    def _take(self, exchange: Exchange, caller: ApiCaller, body: bytes) -> None:
        try:
            _members(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            refuse(exchange, BadRequest(f"the body is not a JSON object: {str(error)[:200]}"))
            return
        method = exchange.request.path[len(PREFIX) :].strip("/")
        answer = _Answer(exchange)
        exchange.attend(answer, "api")
        self._shared.tasks.start(self._answer(answer, method, body, caller), f"api method {method[:64]}")

    async def _answer(self, answer: _Answer, method: str, body: bytes, caller: ApiCaller) -> None:
        try:
            async with asyncio.timeout(self._shared.limits.api_timeout_s):
                if method == "batch":
                    answer.give(200, dump({"replies": await self._batch(body, caller)}))
                else:
                    answer.give(200, dump({"result": await self._methods.call(method, body, caller)}))
        except EverywireError as error:
            answer.fail(error)
        except TimeoutError:
            answer.fail(EverywireError("this was not done in time", code=codes.BUSY))
        except Exception:  # the top of this task: the caller is answered whatever happened
            _log.exception("method %s of the API failed", method[:64])
            answer.fail(EverywireError())

    # -- batches ------------------------------------------------------------------------

    async def _batch(self, body: bytes, caller: ApiCaller) -> list[dict[str, Any]]:
        request = decode_request(body, BatchRequest)
        most = self._shared.limits.max_api_commands
        if len(request.commands) > most:
            raise BadRequest(f"a batch is at most {most} commands")
        if not request.parallel:
            return [await self._command(command, caller) for command in request.commands]
        turns = asyncio.Semaphore(_MAX_PARALLEL)

        async def in_turn(command: Mapping[str, Raw]) -> dict[str, Any]:
            async with turns:
                return await self._command(command, caller)

        return list(await asyncio.gather(*map(in_turn, request.commands)))

    async def _command(self, command: Mapping[str, Raw], caller: ApiCaller) -> dict[str, Any]:
        """Return the reply to one command of a batch. What a command raises is its own reply."""
        try:
            if len(command) != 1:
                raise BadRequest("a command is an object with one member: method and request")
            ((method, request),) = command.items()
            return {method: await self._methods.call(method, bytes(request), caller)}
        except EverywireError as error:
            return {"error": error_object(error)}


class _Answer(WholeAnswer):
    """The driver of a call that is under way. It is not given up when its caller has gone: what was begun
    is done, whether somebody hears of it or not."""

    __slots__ = ("_exchange", "_is_gone")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._is_gone = False

    def gone(self, reason: str) -> None:
        """Hear that nobody waits for the answer."""
        self._is_gone = True

    def give(self, status: int, body: bytes) -> None:
        """Answer."""
        if not self._is_gone:
            self._exchange.respond(status, _HEADERS, body)

    def fail(self, error: EverywireError) -> None:
        """Answer with an error, in the mode that was asked for."""
        told = error_object(error)
        if self._exchange.request.header(b"x-centrifugo-error-mode") == "transport":
            code = error.code
            self.give(_STATUSES.get(code.number, code.status or 500), dump(told))
        else:
            self.give(200, dump({"error": told}))


def _key_of(request: Request) -> str | None:
    """Return the key that a request shows; an empty one for a scheme that is not known."""
    key = request.header(b"x-api-key")
    if key is not None:
        return key
    authorization = request.header(b"authorization")
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() in ("apikey", "bearer") else ""


def _refuse_key(exchange: Exchange, error: EverywireError) -> None:
    """Answer 401 with an empty body, as the reference does; the header says what to do."""
    challenge = f'Bearer realm="api", error_description="{error.sentence}"'.encode("ascii", "replace")
    headers: Headers = [(b"www-authenticate", challenge), _NO_STORE]
    exchange.respond(401, headers)
