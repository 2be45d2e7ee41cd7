"""vLLM's request models plus our fields; the one place where a `Guidance` enters the sampling parameters.

Runs in the HTTP process. No torch of ours.
"""

from dataclasses import replace
from typing import Any

from pydantic import PrivateAttr
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import SamplingParams

from server.requests.fields import GuidanceFields
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, Guidance


class _Guided(GuidanceFields):
    """What both requests share: from `guide()` on, their sampling parameters carry the guidance."""

    _guidance: Guidance | None = PrivateAttr(default=None)
    _prompts: int = PrivateAttr(default=0)

    def guide(self, guidance: Guidance) -> None:
        """Steer this request. Without this call it is vLLM's own, unchanged."""
        self._guidance = guidance

    def with_guidance(self, params: SamplingParams) -> SamplingParams:
        """Add the guidance of the next prompt. vLLM asks for parameters once a prompt, in order."""
        if self._guidance is not None:
            guidance = replace(self._guidance, prompt_index=self._prompts)
            # A new dict: vLLM hands the same one (the request's `vllm_xargs`) to every prompt.
            params.extra_args = {**(params.extra_args or {}), EXTRA_ARGS_KEY: guidance}
            self._prompts += 1
        return params


class GuidedChatCompletionRequest(_Guided, ChatCompletionRequest):
    """`POST /v1/chat/completions`."""

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        """vLLM's parameters, with our guidance."""
        return self.with_guidance(super().to_sampling_params(*args, **kwargs))


class GuidedCompletionRequest(_Guided, CompletionRequest):
    """`POST /v1/completions`."""

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        """vLLM's parameters, with our guidance."""
        return self.with_guidance(super().to_sampling_params(*args, **kwargs))
