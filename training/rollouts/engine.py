"""Sampling replies through vLLM's offline engine, with or without the very guide that serves.

Runs in a training stage's own process, with the engine inside it. The only file of `training` that imports vllm.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.recipe import EngineRecipe
from training.rollouts.requests import Request
from valuemodels.contract.engine_arguments import engine_arguments
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, ChoiceName
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.trace_wire import TokenRange
from valuemodels.sources.cpu import base_dtype, prepare_environment

_TRACE_BATCH = 1024
MOST_READ = 1024
"""Likeliest tokens that `Limits.read_top` may ask for."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One sampled reply.

    Attributes:
        token_ids: with the end-of-sequence token, where the reply ended by itself.
        finish_reason: "stop" or "length".
        kl_nats: sum over the tokens of KL(tilted, base on the candidates); 0 for an unguided reply.
        log_ratios: of every token, log pi / pi_ref, of the policy that sampled it and of the base; none for an unguided
            reply, which has 0 everywhere.
        nodes, ends: of a rollout tree's leaf, the nodes from the root's child down to itself, by their numbers in the
            prompt's tree, and how many tokens the reply has at the end of each.
        base_logprob: the base's log-probability of the reply, over the whole vocabulary at T = 1; cut_nats: what it
            costs to sample it from the likeliest tokens alone, the sum of -log(their probability). 0 where
            `Limits.read_top` does not ask for them.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    sample: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    kl_nats: float = 0.0
    log_ratios: tuple[float, ...] = ()
    nodes: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    base_logprob: float = 0.0
    cut_nats: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a reply ends, and what else is noted of it.

    Attributes:
        ignore_eos: makes every reply exactly `max_tokens` long, for timing.
        read_top: at most `MOST_READ`: note the reply's `base_logprob`, and its `cut_nats` at so many likeliest tokens.
        top_k: sample each token from so many likeliest ones; None: from all.
    """

    max_tokens: int
    temperature: float = 1.0
    ignore_eos: bool = field(default=False)
    read_top: int | None = None
    top_k: int | None = None


class RolloutEngine:
    """vLLM's offline engine, in this process."""

    def __init__(
        self, base_folder: str, recipe: EngineRecipe, guide: GuideConfig | None = None, revision: str | None = None
    ) -> None:
        _set_environment()
        from vllm import LLM

        self._llm = LLM(
            model=base_folder,
            revision=revision,
            dtype=base_dtype() if recipe.dtype == "auto" else recipe.dtype,
            block_size=recipe.block_size,
            max_num_seqs=recipe.max_num_seqs,
            max_model_len=recipe.max_model_len,
            max_logprobs=MOST_READ,
            enforce_eager=True,
            # A chunk's row would pass for a position of the reply, and on a CPU vLLM 0.32 dies of a seeded request
            # whose prompt comes in chunks. Without chunks vLLM's own token budget of a step is at least max_model_len.
            enable_chunked_prefill=False,
            **({} if guide is None else engine_arguments(guide)),
        )
        if guide is not None:
            self._llm.collective_rpc("mavis_attach")

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        """Sample one reply a request, in the requests' order. Equal requests with equal seeds give equal replies."""
        replies: list[Reply] = []
        for start in range(0, len(requests), _TRACE_BATCH):
            replies += self._sample_batch(requests[start : start + _TRACE_BATCH], limits)
        return replies

    def base_logprobs(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """The base's log-probability of every reply, as `Reply.base_logprob` has it, whoever sampled it.

        Args:
            texts: token ids of a prompt, and of a reply to it.
        """
        from vllm import SamplingParams

        outputs = self._llm.generate(
            [{"prompt_token_ids": [*prompt, *reply]} for prompt, reply in texts],
            SamplingParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False),
            use_tqdm=False,
        )
        found = []
        for (prompt, reply), output in zip(texts, outputs, strict=True):
            logprobs = output.prompt_logprobs
            of_reply = (logprobs.start_indices[at] for at in range(len(prompt), len(prompt) + len(reply)))
            found.append(sum(logprobs.logprobs[start] for start in of_reply))
        return found

    def record(self, folder: Path | None) -> None:
        """Write every position that is scored from now on into a folder; None: finish and stop."""
        self._llm.collective_rpc("mavis_record", args=(None if folder is None else str(folder),))

    def _sample_batch(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(request.prompt_token_ids)} for request in requests],
            [_sampling_params(request, limits) for request in requests],
            use_tqdm=False,
        )
        sampled = {
            request.guidance.generation_id: list(output.outputs[0].token_ids)
            for request, output in zip(requests, outputs, strict=True)
            if request.guidance is not None
        }
        traces = self._traces(sampled)
        return [_reply(request, output.outputs[0], traces) for request, output in zip(requests, outputs, strict=True)]

    def text_of(self, token_ids: Sequence[int]) -> str:
        """What a reply of these tokens says."""
        text: str = self._llm.get_tokenizer().decode(list(token_ids), skip_special_tokens=True)
        return text

    def _traces(self, sampled: Mapping[str, list[int]]) -> dict[str, Mapping[str, Any]]:
        """The trace of each generation that left one; reading forgets them.

        Args:
            sampled: generation id -> the tokens of its only choice.
        """
        if not sampled:
            return {}
        choice = str(ChoiceName(0, 0))
        wanted = {generation_id: {choice: TokenRange(0, token_ids)} for generation_id, token_ids in sampled.items()}
        answers = self._llm.collective_rpc("mavis_exchange", args=([], wanted, list(sampled)))
        traces: dict[str, Any] = next(answer for answer in answers if answer is not None)["traces"]
        return {generation_id: choices[choice] for generation_id, choices in traces.items() if choice in choices}


def _reply(request: Request, output: Any, traces: Mapping[str, Mapping[str, Any]]) -> Reply:
    trace = None if request.guidance is None else traces.get(request.guidance.generation_id)
    base_logprob, cut_nats = (0.0, 0.0) if output.logprobs is None else _base_reading(output.logprobs)
    return Reply(
        prompt_id=request.prompt_id,
        prompt_token_ids=request.prompt_token_ids,
        sample=request.sample,
        token_ids=tuple(output.token_ids),
        text=output.text,
        finish_reason=output.finish_reason or "length",
        kl_nats=0.0 if trace is None else sum(trace["kl"]),
        log_ratios=() if trace is None else tuple(trace["log_ratios"]),
        base_logprob=base_logprob,
        cut_nats=cut_nats,
    )


def _base_reading(logprobs: Any) -> tuple[float, float]:
    """`base_logprob` and `cut_nats` of a reply.

    Args:
        logprobs: of every token, the sampled one's and then the likeliest ones', of the base itself.
    """
    by_token = np.reshape(logprobs.logprobs, (len(logprobs.start_indices), -1))
    masses = np.exp(by_token[:, 1:]).sum(axis=1).clip(max=1.0)
    return float(by_token[:, 0].sum()), float(-np.log(masses).sum())


def _sampling_params(request: Request, limits: Limits) -> Any:
    from vllm import SamplingParams

    extra: dict[str, Any] = {} if request.guidance is None else {"extra_args": {EXTRA_ARGS_KEY: request.guidance}}
    if limits.read_top is not None:
        extra |= {"logprobs": limits.read_top, "flat_logprobs": True}
    return SamplingParams(
        temperature=limits.temperature,
        max_tokens=limits.max_tokens if request.max_tokens is None else min(request.max_tokens, limits.max_tokens),
        ignore_eos=limits.ignore_eos,
        top_k=limits.top_k or 0,
        seed=request.seed,
        **extra,
    )


def _set_environment() -> None:
    """What vLLM reads from the environment, where the operator has not said otherwise."""
    prepare_environment()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # Otherwise vLLM lowers torch to one thread in an engine that has no process of its own.
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
