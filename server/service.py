"""One guided request after another: admit, register, and turn traces into blocks. What `app.py` does without vLLM.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import Mapping
from typing import Any

from server.blocks import Legend
from server.errors import FieldError
from server.fields import refuse_unknown
from server.live import LiveChoice, LiveGeneration, LiveGenerations, checked_id
from server.metrics import REQUESTS, observe_choice
from server.objectives import Asked, Catalogue
from server.streaming import GuidedStream
from server.traces import TraceReader

REQUEST_ID_HEADER = "X-Request-Id"
BEAM_SEARCH = "false: it cannot be guided, so it needs all weights and all of the operator's at 0 and no return_values"


class GuidedService:
    """What the routes share: the catalogue, the live generations and their traces."""

    def __init__(self, catalogue: Catalogue, live: LiveGenerations, reader: TraceReader) -> None:
        self.catalogue = catalogue
        self.live = live
        self.reader = reader
        self._legend = Legend(catalogue.policy.objectives, catalogue.checkpoint)

    def admit(self, request: Any, headers: Mapping[str, str], id_prefix: str) -> Asked:
        """Check everything of ours in a request, before the engine hears of it.

        Args:
            request: a `GuidanceFields` on one of vLLM's request models.
            id_prefix: what vLLM puts before the request id of this route.

        Raises:
            FieldError: naming the field, its value and what is allowed.
        """
        refuse_unknown(request.model_extra or {}, request.vllm_xargs)
        header = headers.get(REQUEST_ID_HEADER)
        base_id = request.request_id if header is None else header
        asked = self.catalogue.guidance(request.guidance_fields(), id_prefix + base_id)
        if asked.sent and request.use_beam_search:
            raise FieldError("use_beam_search", True, BEAM_SEARCH)
        if asked.is_traced:
            checked_id([(REQUEST_ID_HEADER, header), ("request_id", request.request_id)])
            if getattr(request, "prompt_embeds", None):
                raise FieldError("prompt_embeds", "...", "nothing beside weights or values: value models read tokens")
        return asked

    def count(self, route: str, asked: Asked) -> None:
        """Note an accepted request."""
        REQUESTS.labels(route, "false" if asked.resolved.is_plain else "true").inc()

    def open(self, request: Any, asked: Asked) -> LiveGeneration:
        """Register a traced generation.

        Raises:
            LiveIdError: its id is taken.
        """
        echoes_only = bool(getattr(request, "prompt", None)) and bool(request.echo) and request.max_tokens == 0
        generation = LiveGeneration(asked, request.n or 1, echoes_only=echoes_only)
        self.live.open(generation)
        return generation

    async def complete(self, generation: LiveGeneration, choices: list[dict[str, Any]]) -> None:
        """Add the `mavis` block to every choice of an answer that is not streamed.

        Raises:
            TracesLostError: the values could not be read.
        """
        await self.reader.read(generation, drop=True)
        for wire in choices:
            choice = generation.choice(wire["index"])
            wire["mavis"] = self._legend.whole(choice, generation.resolved)
            self._finished(generation, choice)

    def stream(self, generation: LiveGeneration) -> GuidedStream:
        """What rewrites the events of a streamed answer."""
        return GuidedStream(generation, self.reader, self._legend, lambda choice: self._finished(generation, choice))

    def _finished(self, generation: LiveGeneration, choice: LiveChoice) -> None:
        if not generation.resolved.is_plain:
            observe_choice(choice.returned, choice.kl_nats)
