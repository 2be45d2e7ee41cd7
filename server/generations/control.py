"""Live control: what `PATCH` and `GET /v1/generations/{id}` do, without HTTP.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from server.audit import Audit
from server.errors import EndedError, FieldError, RequestError, UnknownIdError
from server.generations.apart import worked_out
from server.generations.change_sender import ChangeSender
from server.generations.generation import Generation
from server.generations.ownership import Ownership
from server.generations.phase import Phase
from server.generations.registry import Registry
from server.generations.trace_reader import TraceReader
from server.metrics import CHANGES
from server.requests.admission import Admission
from server.requests.change import read_change
from server.requests.keys import current_key
from valuemodels.contract.changes import Change
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.schedule import states

LONGEST_LOGGED_ID = 160
MAX_TOLD_TOKENS = 16_384
"""Tokens that one answer tells of one by one."""
CANDIDATES_COST = 12
"""How many of them a token with its candidates counts as."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the request's headers, and the address it came from."""

    headers: Mapping[str, str]
    address: str


class GenerationControl:
    """Reads and changes generations on behalf of their owners."""

    def __init__(
        self,
        registry: Registry,
        reader: TraceReader,
        sender: ChangeSender,
        ownership: Ownership,
        admission: Admission,
        audit: Audit,
    ) -> None:
        self._registry = registry
        self._reader = reader
        self._sender = sender
        self._ownership = ownership
        self._admission = admission
        self._audit = audit

    async def change(self, generation_id: str, body: bytes, caller: Caller) -> dict[str, Any]:
        """Change a running generation; the answer comes once the workers have taken the change over.

        Every attempt stands in the audit log, with who, from where, what, when and what came of it.

        Returns:
            The body of the answer: `effective_from_token`, the index of the first token that the change holds for, of
            every choice in `choices` and over all of them, where it is the last of theirs.

        Raises:
            UnknownIdError, NotOwnerError, EndedError, BodyError, FieldError, EngineLostError: see `server.errors`.
        """
        change: Change | None = None
        try:
            generation = self._owned(generation_id, caller)
            names = [generation.choice_name(index) for index in range(generation.size)]
            change = read_change(body, generation.catalogue.policy.of(generation.guidance.key), generation.id, names)
            self._check_what_will_hold(generation, change, names)
            answer = await self._apply(generation, change)
        except RequestError as error:
            self._note(generation_id, caller, change, error)
            raise
        self._note(generation_id, caller, change, None, effective_from_token=answer["effective_from_token"])
        return answer

    async def describe(
        self, generation_id: str, caller: Caller, write: Callable[[dict[str, Any]], T], from_token: int = 0
    ) -> T:
        """What holds in a generation now, and its traces so far.

        Args:
            write: makes an answer of it, apart from the event loop where there is much.
            from_token: of each choice, the first token that is told of one by one.

        Raises:
            UnknownIdError, NotOwnerError, TracesLostError: see `server.errors`.
        """
        generation = self._owned(generation_id, caller)
        if generation.phase is not Phase.OVER:
            await self._reader.read(generation, is_urgent=False)
        cost = CANDIDATES_COST if generation.guidance.trace == "candidates" else 1
        share = max(1, MAX_TOLD_TOKENS // cost // generation.size)
        tokens = range(from_token, from_token + share)
        status = "running" if generation.phase is Phase.RUNNING else "finished"

        def described() -> T:
            choices = [self._described(generation, index, tokens) for index in range(generation.size)]
            return write({"id": generation.id, "object": "generation", "status": status, "choices": choices})

        return await worked_out(generation.weight, described)

    def _described(self, generation: Generation, index: int, tokens: range) -> dict[str, Any]:
        choice = generation.choice(index)
        now = generation.catalogue.policy.resolve(generation.asked(index))
        described = {
            "index": index,
            "finished": generation.phase is Phase.OVER or choice.phase > Phase.RUNNING,
            "mavis": generation.block.so_far(choice, generation.resolved, now, tokens),
        }
        return described | (
            {"next_token": tokens.stop} if min(choice.returned, len(choice.trace)) > tokens.stop else {}
        )

    def _check_what_will_hold(self, generation: Generation, change: Change, names: Sequence[ChoiceName]) -> None:
        """Refuse a change that is allowed by itself, and not with what it leaves as it is."""
        policy = generation.catalogue.policy
        named = names if change.choice is None else [change.choice]
        pairs = ((name, held) for name in named for held in states(generation.guidance, name))
        for asked in (change.over(generation.overrides.over(held, name)) for name, held in pairs):
            try:
                policy.check(asked)
            except GuidanceError as error:
                raise FieldError(error.field, error.value, error.allowed) from None
            if not generation.is_watched:  # its prompt would be read now
                resolved = policy.resolve(asked)
                self._admission.check_prefill(resolved, generation.tokens_to_read, "objective_weights")

    def _owned(self, generation_id: str, caller: Caller) -> Generation:
        generation = self._registry.find(generation_id)
        # To who shows nothing at all, an id that lives and one that does not are the same.
        if generation is None or not self._ownership.shows_secret(caller.headers):
            raise UnknownIdError(generation_id)
        self._ownership.check(generation.owner, caller.headers)
        return generation

    async def _apply(self, generation: Generation, change: Change) -> dict[str, Any]:
        _running_targets(generation, change)
        next_tokens = await self._sender.send(generation, change)
        effective: dict[int, int] = {}
        for index in _running_targets(generation, change):  # it may have ended before the workers heard of the change
            # A choice that no worker holds has not begun, or has sampled its last token.
            if (token := next_tokens.get(generation.choice_name(index))) is not None:
                effective[index] = token
            elif not generation.choice(index).returned:
                effective[index] = 0
        if not effective:
            raise EndedError(generation.id)
        return {
            "id": generation.id,
            "effective_from_token": max(effective.values()),
            "choices": [{"index": index, "effective_from_token": token} for index, token in effective.items()],
        }

    def _note(
        self, generation_id: str, caller: Caller, change: Change | None, error: RequestError | None, **more: Any
    ) -> None:
        CHANGES.labels("taken" if error is None else "refused").inc()
        key = current_key.get()
        (self._audit.note if error is None else self._audit.refuse)(
            "change",
            generation=generation_id[:LONGEST_LOGGED_ID],
            by=self._ownership.caller(caller.headers) if key is None else key.name,
            address=caller.address,
            choice=None if change is None or change.choice is None else str(change.choice),
            fields=None if change is None else change.said,
            refused=None if error is None else type(error).__name__,
            **more,
        )


def _running_targets(generation: Generation, change: Change) -> list[int]:
    """The choices that a change is about and that still run, by their index.

    Raises:
        EndedError: none of them runs.
    """
    indices = range(generation.size)
    named = [index for index in indices if change.choice in (None, generation.choice_name(index))]
    running = [index for index in named if generation.choice(index).phase is Phase.RUNNING]
    if generation.phase is Phase.OVER or not running:
        raise EndedError(generation.id, None if change.choice is None else named[0])
    return running
