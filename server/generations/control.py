"""Live control: what `PATCH` and `GET /v1/generations/{id}` do, without HTTP's clothes.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from server.errors import EndedError, FieldError, RequestError, UnknownIdError
from server.generations.change_sender import ChangeSender
from server.generations.generation import Generation
from server.generations.mavis_block import MavisBlock
from server.generations.ownership import Ownership
from server.generations.registry import Registry
from server.generations.trace_reader import TraceReader
from server.metrics import CHANGES
from server.requests.catalogue import Catalogue
from server.requests.change import Patch, read_patch
from valuemodels.contract.changes import Change

logger = logging.getLogger("mavis.control")

LONGEST_LOGGED_ID = 160


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the request's headers, and the address it came from."""

    headers: Mapping[str, str]
    address: str


class GenerationControl:
    """Reads and changes running generations on behalf of their owners."""

    def __init__(
        self,
        catalogue: Catalogue,
        live: Registry,
        reader: TraceReader,
        steerer: ChangeSender,
        ownership: Ownership,
        legend: MavisBlock,
    ) -> None:
        self._catalogue = catalogue
        self._live = live
        self._reader = reader
        self._steerer = steerer
        self._ownership = ownership
        self._legend = legend

    async def patch(self, generation_id: str, body: bytes, caller: Caller) -> dict[str, Any]:
        """Change a running generation; the answer comes once the worker has taken the change over.

        Every attempt is logged, with who, from where, what, when and what came of it.

        Returns:
            The body of the answer: `effective_from_token`, the index of the first token that the change holds for, of
            every choice in `choices` and over all of them, where it is the last of theirs.

        Raises:
            UnknownIdError, NotOwnerError, EndedError, BodyError, FieldError, EngineLostError: see `server.errors`.
        """
        patch: Patch | None = None
        try:
            generation = self._owned(generation_id, caller)
            patch = read_patch(body, self._catalogue.policy)
            answer = await self._apply(generation, patch)
        except RequestError as error:
            self._log(generation_id, caller, patch, f"refused: {type(error).__name__}")
            raise
        self._log(generation_id, caller, patch, f"effective_from_token={answer['effective_from_token']}")
        return answer

    async def describe(self, generation_id: str, caller: Caller) -> dict[str, Any]:
        """What holds in a generation now, and its traces so far.

        Raises:
            UnknownIdError, NotOwnerError, TracesLostError: see `server.errors`.
        """
        generation = self._owned(generation_id, caller)
        if not generation.is_over:
            await self._reader.read(generation, drop=False, waits=True)
        choices = []
        for index in range(generation.size):
            choice = generation.choice(index)
            asked = generation.overrides.over(generation.guidance, generation.choice_name(index))
            now = self._catalogue.policy.resolve(asked)
            block = self._legend.so_far(choice, generation.resolved, now)
            finished = choice.has_ended or generation.is_over
            choices.append({"index": index, "finished": finished, "mavis": block})
        status = "finished" if generation.has_ended else "running"
        return {"id": generation.id, "object": "generation", "status": status, "choices": choices}

    def _owned(self, generation_id: str, caller: Caller) -> Generation:
        generation = self._live.get(generation_id) or self._live.ended.get(generation_id)
        if generation is None:
            raise UnknownIdError(generation_id)
        self._ownership.check(generation.owner, caller.headers)
        return generation

    async def _apply(self, generation: Generation, patch: Patch) -> dict[str, Any]:
        targets = _targets(generation, patch.choice)
        name = None if patch.choice is None else generation.choice_name(patch.choice)
        positions = await self._steerer.steer(generation, Change(generation.id, patch.fields, name))
        if generation.is_over or all(generation.choice(index).has_ended for index in targets):
            raise EndedError(generation.id, patch.choice)
        effective = {
            index: positions.get(generation.choice_name(index), generation.choice(index).returned) for index in targets
        }
        return {
            "id": generation.id,
            "effective_from_token": max(effective.values()),
            "choices": [{"index": index, "effective_from_token": token} for index, token in effective.items()],
        }

    def _log(self, generation_id: str, caller: Caller, patch: Patch | None, outcome: str) -> None:
        CHANGES.labels("taken" if outcome.startswith("effective") else "refused").inc()
        logger.info(
            "change generation=%s by=%s from=%s at=%s choice=%s fields=%s %s",
            json.dumps(generation_id[:LONGEST_LOGGED_ID]),
            self._ownership.caller(caller.headers),
            caller.address,
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            "all" if patch is None or patch.choice is None else patch.choice,
            "-" if patch is None else json.dumps(dict(patch.fields)),
            outcome,
        )


def _targets(generation: Generation, choice: int | None) -> list[int]:
    """The choices that a patch is about and that still run.

    Raises:
        FieldError: there is no such choice.
        EndedError: none of them runs.
    """
    if choice is not None and choice >= generation.size:
        allowed = f"an integer from 0 to {generation.size - 1}, or leaving the field out for all choices"
        raise FieldError("choice", choice, allowed)
    named = range(generation.size) if choice is None else [choice]
    running = [index for index in named if not generation.choice(index).has_ended]
    if generation.is_over or not running:
        raise EndedError(generation.id, choice)
    return running
