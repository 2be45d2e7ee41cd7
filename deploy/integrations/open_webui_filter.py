"""
title: MAVIS sliders
description: Sends weights or a profile with every chat to a MAVIS server, by each user's own settings.
version: 1.0.0
required_open_webui_version: 0.5.0
license: Apache-2.0
"""

# A filter function of Open WebUI: paste this file under Admin Panel > Functions, and enable it for the models that a
# MAVIS server serves. Users then find the sliders under Chat Controls > Valves.

import json
from typing import Any, Optional

from pydantic import BaseModel, Field


class Filter:
    """Adds a MAVIS server's own fields to what a chat sends."""

    class Valves(BaseModel):
        """What the administrator sets."""

        priority: int = Field(default=0, description="Order among filters.")
        models: str = Field(default="", description="Models that this holds for, with commas between; empty: all.")

    class UserValves(BaseModel):
        """What each user sets."""

        objective_weights: str = Field(
            default="{}",
            description='Objective -> weight, as JSON: {"positivity": 0.8}. GET /v1/objectives lists them.',
        )
        profile: str = Field(default="", description="A profile of the server's; GET /v1/profiles lists them.")
        beta: Optional[float] = Field(default=None, description="Strength of all weights.")  # noqa: UP045
        kl_budget: Optional[float] = Field(default=None, description="Nats a token, at most.")  # noqa: UP045

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(self, body: dict[str, Any], __user__: Optional[dict[str, Any]] = None) -> dict[str, Any]:  # noqa: UP045
        """Called with a chat before it is sent; what it returns is sent.

        Raises:
            ValueError: the weights are no JSON object of numbers; Open WebUI shows the message.
        """
        chosen = [name.strip() for name in self.valves.models.split(",") if name.strip()]
        if chosen and body.get("model") not in chosen:
            return body
        valves = (__user__ or {}).get("valves") or self.UserValves()
        if weights := _weights(valves.objective_weights):
            body["objective_weights"] = weights
        for name in ("profile", "beta", "kl_budget"):
            if (value := getattr(valves, name)) not in (None, ""):
                body[name] = value
        return body


def _weights(text: str) -> dict[str, float]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    numbers = isinstance(found, dict) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) for weight in found.values()
    )
    if not numbers:
        raise ValueError(f'objective_weights: got {text!r}, allowed is a JSON object such as {{"positivity": 0.8}}')
    return found
