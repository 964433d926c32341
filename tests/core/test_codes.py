"""The table of codes and the tree of errors."""

from __future__ import annotations

import pytest

from everywire.core import codes, errors
from everywire.core.codes import CODES, Code
from everywire.core.errors import EverywireError


def test_numbers_and_names_are_unique() -> None:
    assert len({code.number for code in CODES}) == len(CODES)
    assert len({code.name for code in CODES}) == len(CODES)
    assert set(CODES) == {row for row in vars(codes).values() if isinstance(row, Code)}


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_row_keeps_to_its_range(code: Code) -> None:
    assert code.name == code.name.lower()
    assert code.name.replace("_", "").isalnum()
    assert code.sentence
    assert len(code.sentence.encode()) <= 123, "a reason of a WebSocket close frame has room for 123 bytes"
    if 100 <= code.number < 400:
        assert 400 <= code.status < 600, "a code that answers a request has a status"
        assert not code.reconnect
    else:
        assert code.status == 0
        assert 1000 <= code.number < 1016 or 2000 <= code.number < 4000
        assert code.reconnect == (code.number in (1001, 1012, 1013) or code.number // 500 in (5, 6))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (100, "internal"),
        (101, "unauthorized"),
        (102, "unknown_channel"),
        (103, "permission_denied"),
        (104, "method_not_found"),
        (106, "limit_exceeded"),
        (107, "bad_request"),
        (108, "not_available"),
        (111, "too_many_requests"),
        (3001, "shutdown"),
        (3005, "connection_expired"),
        (3008, "slow"),
        (3010, "insufficient_state"),
        (3012, "no_pong"),
        (3502, "stale"),
    ],
)
def test_numbers_that_other_clients_know(number: int, name: str) -> None:
    assert {code.number: code.name for code in CODES}[number] == name


def test_every_error_has_a_row_and_a_sentence() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)()
        assert isinstance(error, EverywireError)
        assert error.code in CODES
        assert str(error) == error.sentence == error.code.sentence


def test_an_error_can_say_more() -> None:
    error = errors.Forbidden("no", code=codes.UNAUTHORIZED, channel="a")
    assert (error.sentence, error.code, error.channel) == ("no", codes.UNAUTHORIZED, "a")
    assert errors.Forbidden().code is codes.PERMISSION_DENIED, "the class is as it was"
