"""An application's function for messages as they are, without channels: common to SockJS and Engine.IO.

A function that takes a connection only is a coroutine function, and lives with the connection. One that
takes a connection and a message is called for each message, in their order; it may be synchronous, and then
runs in a thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.handlers.functions import Function, Threads

__all__ = ["MessageHandler"]

F = TypeVar("F", bound=Callable[..., Any])


class MessageHandler:
    """A handler, and what its connections share.

    ``threads`` are those that synchronous functions run in, by default some of its own. ``on_open`` and
    ``on_close`` are what is to be called besides: see the methods.
    """

    kind: ClassVar = "a handler of messages"
    """What logs call it, before its name."""

    def __init__(
        self,
        function: Callable[..., Any],
        limits: Limits | None = None,
        *,
        threads: Threads | None = None,
        on_open: Callable[..., Any] | None = None,
        on_close: Callable[..., Any] | None = None,
    ) -> None:
        limits = limits or Limits()
        self.name = f"{self.kind} {getattr(function, '__name__', 'handler')!r}"
        self.limits = limits
        self.threads = threads or Threads(limits)
        self.function = function
        self.takes_messages = _takes_messages(function, self.name)
        self.each = Function(function, ("connection", "message"), self.name)
        self.opens: Function | None = None
        self.closes: Function | None = None
        if on_open is not None:
            self.on_open(on_open)
        if on_close is not None:
            self.on_close(on_close)

    def on_open(self, function: F) -> F:
        """Call ``function(connection)`` first; what it raises refuses the connection."""
        self.opens = Function(function, ("connection",), f"{self.name}, on_open")
        return function

    def on_close(self, function: F) -> F:
        """Call ``function(connection, reason)`` when a connection is over."""
        self.closes = Function(function, ("connection", "reason"), f"{self.name}, on_close")
        return function


def _takes_messages(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes messages one by one; raise `SettingsError` when it is of neither kind."""
    if len(inspect.signature(function).parameters) > 1:
        return True
    if not inspect.iscoroutinefunction(function):
        raise SettingsError(f"{name} takes a connection only: then it is a coroutine function")
    return False
