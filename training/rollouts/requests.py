"""Requests to sample: prompts, sample numbers, seeds and guidance. Rollout trees make theirs with the same seeds.

Runs in any process that samples. Must not import torch or vllm.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from training.prompts.chat import ChatPrompt
from valuemodels.contract.guidance import Guidance

GuidanceOf = Callable[[ChatPrompt, int], Guidance | None]
"""From a prompt and the number of a sample to what guides it; None samples from the base."""


@dataclass(frozen=True, slots=True)
class Request:
    """One reply to sample.

    Attributes:
        guidance: None samples from the base. Its `generation_id` must be unique within one `sample` call.
        max_tokens: at which the reply ends, where that is before the call's own limit.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    sample: int
    seed: int
    guidance: Guidance | None = None
    max_tokens: int | None = None


def requests_to_sample(
    prompts: Sequence[ChatPrompt],
    samples: Callable[[ChatPrompt], int] | int,
    seed: int,
    guidance: GuidanceOf | Guidance | None = None,
    *,
    label: str = "",
    seeds: str = "",
) -> list[Request]:
    """One request a prompt and sample, prompt by prompt.

    Seeds follow from `seed`, prompt and sample alone, so that whatever else differs between two calls, their replies
    are paired.

    Args:
        samples: replies a prompt.
        guidance: its `generation_id` is replaced.
        label: what the generations' ids begin with; must differ between calls whose requests run at once.
        seeds: names a series of seeds of its own; "" is the common one.
    """
    requests = []
    for prompt in prompts:
        for sample in range(samples if isinstance(samples, int) else samples(prompt)):
            asked = guidance(prompt, sample) if callable(guidance) else guidance
            request = Request(
                prompt_id=prompt.prompt_id,
                prompt_token_ids=prompt.token_ids,
                sample=sample,
                seed=request_seed(seed, seeds + prompt.prompt_id, sample),
                guidance=asked and replace(asked, generation_id=f"{label}-{prompt.prompt_id}-{sample}"),
            )
            requests.append(request)
    return requests


def request_seed(run_seed: int, prompt_id: str, sample: int) -> int:
    """A seed for one request that does not depend on which other requests there are."""
    digest = hashlib.blake2b(f"{run_seed}:{prompt_id}:{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
