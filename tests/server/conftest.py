"""Fixtures of the server's tests."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server.kit import FakeEngine, make_app


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def http(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    """A client of our routes over the fake engine."""
    transport = httpx.ASGITransport(app=make_app(engine), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
