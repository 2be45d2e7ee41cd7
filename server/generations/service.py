"""A generation from its request to its end: what the generating routes do, without HTTP and without vLLM.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from server.audit import Audit
from server.errors import FieldError, LiveIdError
from server.generations.apart import worked_out
from server.generations.change_sender import ChangeSender
from server.generations.choice import Choice
from server.generations.control import GenerationControl
from server.generations.generation import Generation
from server.generations.ownership import TOKEN_HEADER, Ownership
from server.generations.peers import Peers
from server.generations.phase import Phase
from server.generations.registry import Registry
from server.generations.stream import GuidedStream
from server.generations.trace_reader import TraceReader
from server.metrics import REQUESTS, observe_choice
from server.requests.admission import Admission, max_tokens_of
from server.requests.catalogue import Catalogue, CheckedRequest
from server.requests.fields import REQUEST_ID_HEADER, checked_id, refuse_unknown
from server.requests.keys import current_key
from server.workers.change_line import ChangeLine
from server.workers.mailbox import Mailbox

BEAM_SEARCH = (
    "false: it cannot be guided, so it needs all weights and all of the operator's at 0, no return_values and no "
    f"{TOKEN_HEADER}"
)
PROMPT_EMBEDS = f"leaving the field out where weights, values or {TOKEN_HEADER} are given: value models read tokens"


class GenerationService:
    """What the routes share: the catalogue, the registered generations, their traces and who may change them."""

    def __init__(
        self,
        catalogue: Catalogue,
        registry: Registry,
        mailbox: Mailbox,
        line: ChangeLine,
        admission: Admission,
        audit: Audit,
        *,
        has_api_keys: bool,
        peers: Peers | None = None,
    ) -> None:
        """Args: `peers`: the other HTTP processes; None where there are none."""
        self.catalogue = catalogue  # of requests that come now
        self.registry = registry
        self.admission = admission
        self.mailbox = mailbox
        self.peers = peers or Peers(registry)
        self.reader = TraceReader(mailbox, registry)
        self._ownership = Ownership(by_api_key=has_api_keys)
        self.control = GenerationControl(registry, self.reader, ChangeSender(line), self._ownership, admission, audit)

    @asynccontextmanager
    async def generation(
        self, request: Any, headers: Mapping[str, str], route: str, id_prefix: str
    ) -> AsyncIterator[Generation | None]:
        """The life of a generation: checked and registered on entry, forgotten by all on exit.

        None stands for a request that is vLLM's alone; see `server.api.generation_routes` for which those are.

        Args:
            request: a `GuidanceFields` on one of vLLM's request models; it carries the guidance from now on.
            id_prefix: what vLLM puts before the request id of this route.

        Raises:
            FieldError: naming the field, its value and what is allowed.
            LiveIdError: its id is taken.
        """
        checked = self._admit(request, headers, id_prefix)
        generation = None if checked is None else await self._open(request, headers, checked)
        REQUESTS.labels(route, "true" if checked is not None and checked.tilts else "false").inc()
        if checked is None or generation is None:
            yield None
            return
        request.guide(checked.guidance)
        try:
            yield generation
        finally:
            self.reader.forget(generation)

    async def complete(self, generation: Generation, body: dict[str, Any]) -> None:
        """Add the generation's token to an answer that is not streamed, and the `mavis` block to each of its choices.

        Raises:
            TracesLostError: the values could not be read.
        """
        body["generation_token"] = generation.owner.token
        if not generation.is_watched:
            return
        choices = [generation.choice(wire["index"]) for wire in body["choices"]]
        for choice in choices:
            choice.advance(Phase.TOLD)
        await self.reader.read(generation)
        resolved = generation.resolved
        blocks = await worked_out(
            generation.weight, lambda: [generation.block.whole(choice, resolved) for choice in choices]
        )
        for wire, choice, block in zip(body["choices"], choices, blocks, strict=True):
            wire["mavis"] = block
            self._observe(generation, choice, block)

    def stream(self, generation: Generation) -> GuidedStream:
        """What rewrites the events of a streamed answer."""
        return GuidedStream(generation, self.reader, partial(self._observe, generation))

    def _admit(self, request: Any, headers: Mapping[str, str], id_prefix: str) -> CheckedRequest | None:
        """Check everything of ours in a request, before the engine hears of it; None where nothing of ours goes along.

        Raises:
            FieldError: naming the field, its value and what is allowed.
        """
        refuse_unknown(request.model_extra or {}, request.vllm_xargs)
        prompts, n = _prompt_count(request), max(request.n or 1, 1)  # what is below 1 is vLLM's to refuse
        self.admission.check_size(n, prompts)
        header = headers.get(REQUEST_ID_HEADER)
        fields = request.guidance_fields()
        self.admission.check_weights(fields.get("objective_weights"))
        name = id_prefix + (request.request_id if header is None else header)
        checked = self.catalogue.check(fields, name, current_key.get()).of_choices(n, prompts)
        self.admission.check_trace(checked.resolved, max_tokens_of(request), n * prompts)
        has_token = TOKEN_HEADER in headers
        has_embeds = bool(getattr(request, "prompt_embeds", None))
        if request.use_beam_search and (checked.must_travel or has_token):
            raise FieldError("use_beam_search", True, BEAM_SEARCH)
        if has_embeds and (checked.resolved.needs_values or has_token):
            raise FieldError("prompt_embeds", "...", PROMPT_EMBEDS)
        is_changeable = bool(fields or has_token) and not (request.use_beam_search or has_embeds)
        if not (checked.must_travel or is_changeable):
            return None
        checked_id([(REQUEST_ID_HEADER, header), ("request_id", request.request_id)])
        return checked

    async def _open(self, request: Any, headers: Mapping[str, str], checked: CheckedRequest) -> Generation:
        generation = Generation(
            checked,
            checked.guidance.n,
            self._ownership.claim(headers),
            expected_prompts=_prompt_count(request),
            echoes_only=bool(getattr(request, "prompt", None)) and bool(request.echo) and request.max_tokens == 0,
        )
        self.registry.open(generation)
        # Only an id that the client chose can be there already. Of two that come at once, each finds the other.
        is_chosen = REQUEST_ID_HEADER in headers or "request_id" in request.model_fields_set
        try:
            if is_chosen and await self.peers.is_running(generation.id):
                raise LiveIdError(generation.id)
        except BaseException:
            self.registry.withdraw(generation)
            raise
        return generation

    def _observe(self, generation: Generation, choice: Choice, block: Mapping[str, Any]) -> None:
        if generation.is_guided:
            observe_choice(choice.returned, block["kl"], block["values"])


def _prompt_count(request: Any) -> int:
    """How many prompts vLLM will make of a request: a list of texts or of lists of token ids is several."""
    prompt = getattr(request, "prompt", None)
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
