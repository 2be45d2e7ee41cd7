"""Counts the tokens that the engine returns for registered generations.

The response does not always say how many tokens it holds (text is held back for stop strings, hidden reasoning takes
its token ids along, `echo` mixes prompt and answer), and asking vLLM for `return_token_ids` changes what it answers.
The engine client's `generate` says it exactly, before any of that. So the serving objects get their engine client
wrapped in this; requests without guidance pass through it untouched.

Runs in the HTTP process. No torch, no vLLM: the engine client is met by what we call on it.
"""

from collections.abc import AsyncGenerator
from typing import Any

from server.generations.generation import Generation
from server.generations.registry import Registry
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, ChoiceName, Guidance


class TokenCounter:
    """An engine client whose `generate` counts what it returns of registered generations.

    Everything else is the client's own.
    """

    def __init__(self, engine: Any, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """The engine's outputs, counted where they belong to one."""
        outputs: AsyncGenerator[Any, None] = self._engine.generate(prompt, sampling_params, request_id, **kwargs)
        guidance = (sampling_params.extra_args or {}).get(EXTRA_ARGS_KEY)
        if not isinstance(guidance, Guidance):
            return outputs
        generation = self._registry.running(guidance.generation_id)
        if generation is None:
            return outputs
        return _counted(outputs, generation, guidance.prompt_index)


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
