"""Users whom a server knows by their tokens, and a server that knows them."""

from __future__ import annotations

import time
from typing import Any, Final

import jwt

from everywire.access.identity import Action
from everywire.access.tokens import Tokens

SECRET: Final = "a secret of the tests, which is long enough"
EVERYTHING: Final = {action: ["*"] for action in Action}
"""Rules by which every known user may do everything."""


def knowing(**options: Any) -> dict[str, Any]:
    """Return the options of a server that knows users by tokens, lets them do everything, and nobody else."""
    return {"dev": False, "tokens": Tokens(secret=SECRET), "user_rules": EVERYTHING, **options}


def token(user: str, lasts_s: float | None = None, **claims: Any) -> str:
    """Sign a token of a user, which lasts so long."""
    if lasts_s is not None:
        claims["exp"] = time.time() + lasts_s
    return jwt.encode({"sub": user, **claims}, SECRET, "HS256")


def bearer(user: str, lasts_s: float | None = None, **claims: Any) -> dict[str, str]:
    """Return the header that shows such a token."""
    return {"Authorization": f"Bearer {token(user, lasts_s, **claims)}"}
