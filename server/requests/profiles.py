"""Profiles: named sets of our fields, which a request takes over by `profile` and the playground offers as characters.

    [gentle]                                # profiles.toml; a JSON file of the same shape will do as well
    title = "Gentle"
    description = "Warm, in plain words."
    objective_weights = { positivity = 0.7, simplicity = 0.4 }
    kl_budget = 0.3
    schedule = [{ from_token = 60, beta = 0.5 }]

Runs in the process that starts the server, and in the HTTP process. No torch, no vLLM.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.errors import StartupError
from valuemodels.contract.errors import first_line, shown
from valuemodels.contract.guidance import Scoring
from valuemodels.sources.embedded import EMBEDDED_VALUES

SHIPPED = Path(__file__).parent / "embedded_profiles.toml"
Number = Annotated[float, Field(allow_inf_nan=False)]


class Profile(BaseModel):
    """Fields of ours under one name, and what people are told of them; the policy checks them as a request's.

    Attributes:
        title, description: for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str | None = None
    description: str | None = None
    objective_weights: dict[str, Number] = {}
    beta: Number | None = None
    candidates: int | None = None
    candidate_min_p: Number | None = None
    kl_budget: Number | None = None
    scoring: Scoring | None = None
    schedule: list[dict[str, Any]] | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What it stands for in a request."""
        return self.model_dump(exclude_none=True, exclude={"title", "description"})

    def listed(self, name: str) -> dict[str, Any]:
        """Its entry in `GET /v1/profiles`."""
        return {"id": name, "object": "profile", **self.model_dump(exclude_none=True)}


@dataclass(frozen=True, slots=True)
class ProfileSet:
    """All that a server offers.

    Attributes:
        are_shipped: nobody here has written them, so one that does not fit the operator's bounds is left out.
    """

    by_name: Mapping[str, Profile]
    are_shipped: bool = False


def read_profiles(path: Path) -> dict[str, Profile]:
    """Read a file of profiles.

    Raises:
        StartupError: naming the file, the profile and its field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise StartupError(f"profiles file {path} cannot be read: {first_line(error)}") from None
    try:
        return TypeAdapter(dict[str, Profile]).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StartupError(f"{path}: {where}: {first['msg']} (got {shown(first['input'])})") from None


def shipped_profiles(checkpoints: Sequence[str]) -> dict[str, Profile]:
    """The profiles of the checkpoint that this repository ships, where it is what is served; else none."""
    return read_profiles(SHIPPED) if list(checkpoints) == [str(EMBEDDED_VALUES)] else {}
