"""`mavis serve` on a cluster of Ray: replicas on its nodes, behind Ray Serve's one address.

    serve run server.cluster.ray_serve:build arguments="MODEL --values CHECKPOINT"
    serve deploy deploy/ray/serve.yaml

Each replica starts a server of its own beside it, the very one that `mavis serve` starts, and hands it what comes.
(`ray.serve.llm` has an HTTP layer of its own in vLLM's place, which knows neither our fields nor our routes.) A change
or a read of a generation reaches the replica that holds it, whichever Ray picks.

Runs in the processes of Ray Serve's replicas, and where `serve` builds the application. No torch, no vLLM.
"""

import os
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from starlette.types import ASGIApp

from server.cluster.child import FAREWELL_S, Child
from server.cluster.relay import Answer, Asked, Relay
from server.errors import StartupError

DRAIN_S = 60.0
OTHERS_S = 30.0
"""How long the other replicas may take to answer."""
_OURS = ("--host", "--port", "--uds", "--root-path")


class Arguments(BaseModel):
    """What `serve run ... NAME=VALUE`, or `args` in a config of Ray Serve's, may say.

    Attributes:
        arguments: of `mavis serve`, as they would stand in a shell; host and port are the replica's own.
        environment: variables for the server: our settings, vLLM's, the hub's token.
        drain_s: seconds that running requests have to end when a replica is stopped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arguments: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    drain_s: float = Field(default=DRAIN_S, ge=0)

    @field_validator("arguments")
    @classmethod
    def _without_address(cls, arguments: str) -> str:
        for word in shlex.split(arguments):
            if word.split("=", 1)[0] in _OURS:
                raise ValueError(f"{word} is not for you to say: Ray Serve's http_options tell where it listens")
        return arguments

    @field_validator("environment")
    @classmethod
    def _without_drain(cls, environment: dict[str, str]) -> dict[str, str]:
        if "MAVIS_DRAIN_S" in environment:
            raise ValueError("MAVIS_DRAIN_S is said as drain_s, which the replica has to know as well")
        return environment


class MavisReplica:
    """One server and the door before it, in a replica of Ray Serve's."""

    def __init__(self, said: Arguments) -> None:
        """
        Raises:
            StartupError: other checkpoints would be loaded by one replica alone.
        """
        if {**os.environ, **said.environment}.get("MAVIS_ADMIN_KEY"):
            raise StartupError("MAVIS_ADMIN_KEY is not supported on Ray: one replica alone would load the checkpoints")
        context = serve.get_replica_context()
        self._name = context.replica_tag
        self._all = serve.get_deployment_handle(context.deployment, context.app_name)
        self._child = Child(shlex.split(said.arguments), said.environment, said.drain_s)
        self._relay = Relay(self._child.url, self._ask_all, self._metrics_of_all, self._serving)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Ray Serve has answer, once this has been made."""
        return self._relay.app

    async def check_health(self) -> None:
        """Asked by Ray Serve, which replaces the replica where it fails.

        Raises:
            ChildError: see `Child.check`.
        """
        await self._child.check()

    async def ask(self, asked: Asked) -> Answer | None:
        """Asked by the other replicas; None where the server here does not answer."""
        try:
            return await self._relay.ask(asked)
        except httpx.TransportError:
            return None

    async def own_metrics(self) -> tuple[str, str]:
        """Asked by the other replicas: this one's name and its server's metrics, none where it does not answer."""
        try:
            return self._name, await self._relay.metrics()
        except httpx.TransportError:
            return self._name, ""

    async def _ask_all(self, asked: Asked) -> Sequence[Answer]:
        return [answer for answer in await self._everywhere("ask", asked) if answer is not None]

    async def _metrics_of_all(self) -> dict[str, str]:
        return dict(await self._everywhere("own_metrics"))

    async def _everywhere(self, method: str, *arguments: object) -> list[Any]:
        """What all replicas answer that do; one that dies meanwhile is left out.

        Raises:
            TimeoutError: one of them does not answer at all.
        """
        call = self._all.broadcast(method, *arguments)
        answers = await call.results_async(timeout_s=OTHERS_S, return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    @asynccontextmanager
    async def _serving(self, app: object) -> AsyncIterator[None]:
        """From this replica's start, which waits for the server, to when its requests have ended or had their time.

        Raises:
            ChildError: the server does not start; its reason stands in the replica's log.
        """
        await self._child.wait_until_ready()
        yield
        await self._child.stop()


def build(said: Arguments) -> serve.Application:
    """The application. How many replicas, and with what, is Ray Serve's to be told: see deploy/ray/serve.yaml."""
    deployment = serve.deployment(
        serve.ingress()(MavisReplica),
        max_ongoing_requests=1024,
        graceful_shutdown_timeout_s=said.drain_s + FAREWELL_S,  # then Ray kills it
        health_check_period_s=10,
        health_check_timeout_s=30,
    )
    return deployment.bind(said)
