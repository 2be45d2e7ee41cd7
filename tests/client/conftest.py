"""Fixtures of the client's tests."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.client.fake_server import FakeServer
from tests.client.kit import BASE_URL, KINDS, Script, Sdk


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Sdk]]:
    """Makes a client, once blocking and once async; closes it after the test."""
    made: list[Sdk] = []

    def make(script: Script | None = None, *, base_url: str = BASE_URL, **arguments: Any) -> Sdk:
        if script is not None:
            arguments["transport"] = httpx.MockTransport(script)
        made.append(Sdk(request.param, base_url, arguments))
        return made[-1]

    yield make
    for sdk in made:
        sdk.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A real server on this machine."""
    with FakeServer().running() as running:
        yield running
