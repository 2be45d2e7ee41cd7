"""A real vLLM engine on a tiny random model, small enough that chunked prompts and preemption happen by themselves.

As a script it runs plain vLLM, without any of our code in the engine, unless it is given a guide:

    python -m tests.invariants.engine MODEL REQUESTS.json ANSWERS.json DTYPE [GUIDE.json]
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.invariants import triton_on_cpu
from valuemodels.contract.engine_arguments import engine_arguments
from valuemodels.contract.guidance import ChoiceName, Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.trace_wire import CandidateColumns
from valuemodels.sources.cpu import prepare_environment

if TYPE_CHECKING:
    from valuemodels.guide.value_guide import ValueGuide

IS_V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
"""Whether vLLM's V2 runner is what all tests here run on."""

if IS_V2:
    triton_on_cpu.enable()

BATCHED_TOKENS = 48
"""Prompts longer than this, together or alone, reach the engine in chunks. Never with a seed: vLLM 0.32 cannot take
back a seeded draw for an unfinished prompt on a CPU, and its engine dies of it."""

CACHE_BLOCKS = 12
"""Few enough that a full batch of long requests does not fit, and vLLM must preempt."""

BLOCK_TOKENS = 32

ROOM = 2
"""How many requests of 100 tokens fit without a preemption."""

CROWD = 5
"""How many do not, and some of them wait."""

_told: dict[str, dict[str, list[Any]]] = {}
"""What was answered, by generation and choice: as the server does, traces are read by it."""


def open_engine(
    model: str, guide: GuideConfig | None, dtype: str = "float32", *, is_async: bool = False, **more: Any
) -> Any:
    """vLLM's offline engine in this process, guided where a config is given.

    Args:
        is_async: schedule steps before the tokens of those before are known, as vLLM does on a GPU.
        more: arguments of the engine's.
    """
    prepare_environment()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM

    if is_async:
        _schedule_ahead()
    engine = LLM(
        model=model,
        dtype=dtype,
        max_model_len=320,
        max_num_seqs=8,
        max_num_batched_tokens=BATCHED_TOKENS,
        block_size=BLOCK_TOKENS,
        num_gpu_blocks_override=CACHE_BLOCKS,
        skip_tokenizer_init=True,
        disable_log_stats=False,
        enable_prefix_caching=True,
        **({} if guide is None else engine_arguments(guide)),
        **{"enforce_eager": True, **more},
    )
    if guide is not None:
        engine.collective_rpc("mavis_attach")
    return engine


def _schedule_ahead() -> None:
    """For the engine that is opened next: on a CPU vLLM does without."""
    from vllm.platforms.cpu import CpuPlatform

    plain = CpuPlatform.check_and_update_config

    def updated(vllm_config: Any) -> None:
        CpuPlatform.check_and_update_config = plain
        plain(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = staticmethod(updated)


def generate(
    engine: Any, requests: Sequence[Mapping[str, Any]], adapters: Sequence[Any] | None = None
) -> list[list[list[int]]]:
    """Sample every request in one batch.

    Args:
        requests: {"prompt": token ids, "guidance": Guidance or absent, any field of SamplingParams}.
        adapters: the `LoRARequest` of each, or None.

    Returns:
        Token ids by request and choice.
    """
    params = [params_of(request) for request in requests]
    prompts = [{"prompt_token_ids": list(request["prompt"])} for request in requests]
    lora = None if adapters is None else list(adapters)
    outputs = engine.generate(prompts, params, use_tqdm=False, lora_request=lora)
    answers = [[list(choice.token_ids) for choice in output.outputs] for output in outputs]
    for request, choices in zip(requests, answers, strict=True):
        if (guidance := request.get("guidance")) is not None:
            told = {str(ChoiceName(guidance.prompt_index, child)): [0, ids] for child, ids in enumerate(choices)}
            _told.setdefault(guidance.generation_id, {}).update(told)
    return answers


def generate_stepwise(engine: Any, request: Mapping[str, Any], before_step: Callable[[int], None]) -> None:
    """Sample one request, of a short prompt, alone; what is called before each step gets the next token's place."""
    core = engine.llm_engine
    core.add_request(request["guidance"].generation_id, {"prompt_token_ids": request["prompt"]}, params_of(request))
    for at in count():
        before_step(at)
        outputs: list[Any] = []
        while not outputs:  # a pipeline's first ranks have nothing to tell
            outputs = core.step()
        output = outputs[-1]
        if output.finished:
            _told[request["guidance"].generation_id] = {"0:0": [0, list(output.outputs[0].token_ids)]}
            return


def params_of(request: Mapping[str, Any]) -> Any:
    """vLLM's `SamplingParams` of a request."""
    from vllm import SamplingParams

    fields = {key: value for key, value in request.items() if key not in ("prompt", "guidance")}
    guidance: Guidance | None = request.get("guidance")
    extra = None if guidance is None else {"mavis": guidance}
    return SamplingParams(detokenize=False, extra_args=extra, **fields)


def one_by_one(engine: Any, requests: Sequence[Mapping[str, Any]]) -> list[list[list[int]]]:
    """Sample every request in a batch of its own."""
    return [generate(engine, [request])[0] for request in requests]


def unhurried(engine: Any, requests: Sequence[Mapping[str, Any]]) -> list[list[list[int]]]:
    """Sample every request in batches so small that the engine has room for all of each."""
    before = preemptions(engine)
    answers = [answer for at in range(0, len(requests), ROOM) for answer in generate(engine, requests[at : at + ROOM])]
    assert preemptions(engine) == before
    return answers


Traces = dict[str, dict[str, dict[str, Any]]]
"""By generation and choice."""


def read_traces(engine: Any, *generation_ids: str) -> Traces:
    """The traces of some generations, their candidates unpacked, which are dropped by reading."""
    return traces_of_ranks(engine, *generation_ids)[0]


def traces_of_ranks(engine: Any, *generation_ids: str) -> list[Traces]:
    """The same of every rank that samples."""
    wanted = {name: _told.pop(name) for name in generation_ids}
    answers = engine.collective_rpc("mavis_exchange", args=([], wanted, list(generation_ids)))
    found = [answer["traces"] for answer in answers if answer is not None]
    for trace in (trace for traces in found for choices in traces.values() for trace in choices.values()):
        if "candidates" in trace:
            trace["candidates"] = [CandidateColumns(*packed).unpack() for packed in trace["candidates"]]
    return found


def guide_of(engine: Any) -> "ValueGuide":
    """The guide in the engine's worker."""
    worker = engine.llm_engine.model_executor.driver_worker.worker
    processor = worker._mavis_processor()
    guide: ValueGuide = processor.guide
    return guide


def preemptions(engine: Any) -> int:
    """How often the engine has preempted a request so far."""
    return counted(engine, "num_preemptions")


def counted(engine: Any, name: str) -> int:
    """One of vLLM's counters."""
    return int(sum(m.value for m in engine.get_metrics() if m.name == f"vllm:{name}"))


def main(model: str, requests: str, answers: str, dtype: str, guide: str | None = None) -> None:
    """Answer the requests of one JSON file into another, one after another."""
    config = None if guide is None else GuideConfig.from_wire(json.loads(Path(guide).read_text()))
    engine = open_engine(model, config, dtype)
    asked = json.loads(Path(requests).read_text())
    for request in (request for request in asked if "guidance" in request):
        request["guidance"] = Guidance.from_wire(request["guidance"])
    Path(answers).write_text(json.dumps(one_by_one(engine, asked)))


if __name__ == "__main__":
    main(*sys.argv[1:])
