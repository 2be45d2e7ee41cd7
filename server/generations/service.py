"""One request after another: admit, register, and turn traces into blocks. What `app.py` does without vLLM.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.errors import FieldError
from server.generations.change_sender import ChangeSender
from server.generations.choice import Choice
from server.generations.control import GenerationControl
from server.generations.generation import Generation, checked_id
from server.generations.mavis_block import MavisBlock
from server.generations.ownership import TOKEN_HEADER, Ownership
from server.generations.registry import Registry
from server.generations.stream import GuidedStream
from server.generations.trace_reader import TraceReader
from server.metrics import REQUESTS, observe_choice
from server.requests.catalogue import Catalogue, CheckedRequest
from server.requests.fields import refuse_unknown
from server.workers.rpc import EngineRpc

REQUEST_ID_HEADER = "X-Request-Id"
BEAM_SEARCH = (
    "false: it cannot be guided, so it needs all weights and all of the operator's at 0, no return_values and no "
    f"{TOKEN_HEADER}"
)
PROMPT_EMBEDS = f"nothing beside weights, values or {TOKEN_HEADER}: value models read tokens"


class GuidedService:
    """What the routes share: the catalogue, the live generations, their traces and who may steer them."""

    def __init__(
        self,
        catalogue: Catalogue,
        live: Registry,
        reader: TraceReader,
        engine: EngineRpc,
        *,
        has_api_keys: bool,
    ) -> None:
        self.catalogue = catalogue
        self.live = live
        self.reader = reader
        self._legend = MavisBlock(catalogue.policy.objectives, catalogue.checkpoint)
        self._ownership = Ownership(by_api_key=has_api_keys)
        self.control = GenerationControl(
            catalogue, live, reader, ChangeSender(engine, live), self._ownership, self._legend
        )

    def admit(self, request: Any, headers: Mapping[str, str], id_prefix: str) -> CheckedRequest:
        """Check everything of ours in a request, before the engine hears of it.

        What is `sent` is registered as well, and can be steered; `server.generations` says which requests these are.

        Args:
            request: a `GuidanceFields` on one of vLLM's request models.
            id_prefix: what vLLM puts before the request id of this route.

        Raises:
            FieldError: naming the field, its value and what is allowed.
        """
        refuse_unknown(request.model_extra or {}, request.vllm_xargs)
        header = headers.get(REQUEST_ID_HEADER)
        base_id = request.request_id if header is None else header
        fields = request.guidance_fields()
        asked = self.catalogue.guidance(fields, id_prefix + base_id)
        has_token = TOKEN_HEADER in headers
        has_embeds = bool(getattr(request, "prompt_embeds", None))
        if request.use_beam_search and (asked.needed or has_token):
            raise FieldError("use_beam_search", True, BEAM_SEARCH)
        if has_embeds and (asked.is_traced or has_token):
            raise FieldError("prompt_embeds", "...", PROMPT_EMBEDS)
        is_steerable = bool(fields or has_token) and not (request.use_beam_search or has_embeds)
        asked = replace(asked, sent=asked.needed or is_steerable)
        if asked.sent:
            checked_id([(REQUEST_ID_HEADER, header), ("request_id", request.request_id)])
        return asked

    def count(self, route: str, asked: CheckedRequest) -> None:
        """Note an accepted request."""
        REQUESTS.labels(route, "false" if asked.resolved.is_plain else "true").inc()

    def open(self, request: Any, headers: Mapping[str, str], asked: CheckedRequest) -> Generation:
        """Register a generation.

        Raises:
            LiveIdError: its id is taken.
            FieldError: the token that the client chose cannot be one.
        """
        owner = self._ownership.claim(headers)
        echoes_only = bool(getattr(request, "prompt", None)) and bool(request.echo) and request.max_tokens == 0
        generation = Generation(
            asked, request.n or 1, owner, expected_prompts=_prompt_count(request), echoes_only=echoes_only
        )
        self.live.open(generation)
        return generation

    async def complete(self, generation: Generation, body: dict[str, Any]) -> None:
        """Add the generation's token to an answer that is not streamed, and the `mavis` block to each of its choices.

        Raises:
            TracesLostError: the values could not be read.
        """
        body["generation_token"] = generation.owner.token
        if not generation.is_watched:
            return
        await self.reader.read(generation, drop=True)
        for wire in body["choices"]:
            choice = generation.choice(wire["index"])
            wire["mavis"] = self._legend.whole(choice, generation.resolved)
            self._finished(generation, choice)

    def stream(self, generation: Generation) -> GuidedStream:
        """What rewrites the events of a streamed answer."""
        return GuidedStream(generation, self.reader, self._legend, lambda choice: self._finished(generation, choice))

    def _finished(self, generation: Generation, choice: Choice) -> None:
        if generation.is_steered or not generation.resolved.is_plain:
            observe_choice(choice.returned, choice.kl_nats)


def _prompt_count(request: Any) -> int:
    """How many prompts vLLM will make of a request: a list of texts or of lists of token ids is several."""
    prompt = getattr(request, "prompt", None)
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
