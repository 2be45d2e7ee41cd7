"""The engine client as vLLM's serving classes see it: the one place where all of their requests pass.

Whatever route a request came by, here its prompt is known and nothing of it is sampled yet. So this is where it is
held against the operator's limits, where the rules of its API key are attached to it if it says nothing itself, where
its guidance learns of its `cache_salt`, where its tokens are counted, and where the load is measured.

The response does not always say how many tokens it holds (text is held back for stop strings, hidden reasoning takes
its token ids along, `echo` mixes prompt and answer), and asking vLLM for `return_token_ids` changes what it answers.
`generate` says it exactly, before any of that.

Runs in the HTTP process. No torch, no vLLM: the engine client is met by what we call on it.
"""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from server.gate.load import EngineLoad
from server.generations.generation import Generation
from server.generations.ownership import NOBODY
from server.generations.service import GenerationService
from server.requests.catalogue import CheckedRequest
from server.requests.keys import current_key
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, ChoiceName, Guidance


class EngineGateway:
    """An engine client whose `generate` admits, completes and counts; everything else is the client's own."""

    def __init__(self, engine: Any, service: GenerationService, load: EngineLoad) -> None:
        self._engine = engine
        self._service = service
        self._registry = service.registry
        self._reader = service.reader
        self._admission = service.admission
        self._load = load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """The engine's outputs.

        Raises:
            PrefillError: value models would read for too long.
        """
        n, tokens, salt = sampling_params.n, _length(prompt), _salt(prompt)
        carried = (sampling_params.extra_args or {}).get(EXTRA_ARGS_KEY)
        guidance = carried if isinstance(carried, Guidance) else None
        catalogue = self._service.catalogue
        silent = None
        if guidance is None:
            silent = catalogue.silent(current_key.get(), f"silent-{request_id}", is_salted=salt is not None)
        generation = None if guidance is None else self._registry.running(guidance.generation_id)
        if generation is not None:
            catalogue = generation.catalogue
        resolved = silent.resolved if silent is not None else catalogue.policy.resolve(guidance)
        if generation is not None:
            generation.note_prompt(tokens)
        self._admission.check_prefill(resolved, tokens if generation is None else generation.prompt_tokens)
        told = silent.guidance if silent is not None and silent.must_travel else guidance
        if told is not None:
            told = replace(told, cache_salt=salt)
            sampling_params.extra_args = {**(sampling_params.extra_args or {}), EXTRA_ARGS_KEY: told}
        outputs: AsyncGenerator[Any, None] = self._engine.generate(prompt, sampling_params, request_id, **kwargs)
        outputs = self._load.watched(outputs, n)
        if guidance is not None and generation is not None:
            return _counted(outputs, generation, guidance.prompt_index)
        if silent is not None and silent.must_travel:
            return self._watched(outputs, silent, n)
        return outputs

    async def _watched(
        self, outputs: AsyncGenerator[Any, None], silent: CheckedRequest, n: int
    ) -> AsyncGenerator[Any, None]:
        """Of a request that nobody can ask for: its trace is read at the end, in case that it must not go without."""
        generation = Generation(silent, n, NOBODY)
        try:
            async for output in _counted(outputs, generation, 0):
                if all(choice.finish_reason is not None for choice in output.outputs):
                    await self._reader.read(generation)
                yield output
        finally:
            await outputs.aclose()
            self._reader.forget(generation)


async def _counted(
    outputs: AsyncGenerator[Any, None], generation: Generation, prompt: int
) -> AsyncGenerator[Any, None]:
    try:
        async for output in outputs:
            for choice in output.outputs:
                is_last = choice.finish_reason is not None
                generation.count(ChoiceName(prompt, choice.index), choice.token_ids, is_last=is_last)
            yield output
    finally:
        await outputs.aclose()  # aborts the request where the client has gone


def _length(prompt: Any) -> int:
    """How many tokens value models will read of a prompt."""
    token_ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
    return 0 if token_ids is None else len(token_ids)


def _salt(prompt: Any) -> str | None:
    """What a request has given for vLLM to keep what it caches of it apart."""
    return prompt.get("cache_salt") if isinstance(prompt, dict) else None
