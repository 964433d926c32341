"""What is too long for the suite: `make soak`. The fixtures are those of ``tests/e2e``."""

from __future__ import annotations

from tests.e2e.conftest import certificate

__all__ = ["certificate"]
