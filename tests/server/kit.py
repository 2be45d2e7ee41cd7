"""A catalogue, an engine and serving classes for tests of the HTTP side, where the real ones are not the point."""

import asyncio
import json
from argparse import Namespace
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionResponse
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

from server.api import routes
from server.api.plugin import MavisEndpoints
from server.api.route_table import generates, is_open, replace_route
from server.audit import Audit
from server.gate.drain import Drain
from server.gate.gate import GateLimits, Routes, place_gate
from server.gate.load import EngineLoad
from server.generations.gateway import EngineGateway
from server.generations.generation import Generation
from server.generations.ownership import Owner, Ownership
from server.generations.registry import Registry
from server.generations.service import GenerationService
from server.requests.admission import Admission, Limits
from server.requests.catalogue import Catalogue, CheckedRequest
from server.requests.keys import ApiKey, ApiKeys, digest_of
from server.requests.profiles import Profile, ProfileSet
from server.workers.change_line import ChangeLine
from server.workers.heartbeat import Heartbeat
from server.workers.mailbox import Mailbox
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, ChoiceName, Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.policy import Bounds
from valuemodels.contract.trace_wire import CandidateColumns
from valuemodels.contract.value_config import ValueConfig
from valuemodels.guide.changed import ChangedGenerations

STEP_S = 0.005
OWNER: Owner = Ownership(by_api_key=False).claim({"X-Generation-Token": "t" * 16})


def value_config(*names: str, checkpoint: str = "test-1") -> ValueConfig:
    return ValueConfig.model_validate(
        {
            "format_version": 1,
            "id": checkpoint,
            "base_model": "base",
            "tokenizer_fingerprint": "x",
            "objectives": [
                {
                    "name": name,
                    "description": f"how much {name}",
                    "reward": f"{name}-reward",
                    "mean": 0.0,
                    "std": 1.0,
                    "scale": 1.0,
                    "metrics": {"mse": 0.5},
                }
                for name in names
            ],
            "backbone": {"kind": "base", "layers": 2},
            "head": {"kind": "linear"},
            "training": {"recipe": "test", "iteration": 0, "data_hash": "none"},
        }
    )


def catalogue(profiles: Any = None, key_profiles: Any = None, **operator: Any) -> Catalogue:
    """Two objectives, positivity in [-2, 2] and simplicity in [-1, 1]."""
    bounds = {"simplicity": Bounds(-1.0, 1.0)}
    config = GuideConfig(checkpoints=(), base_model="base", **{"bounds": bounds, **operator})
    named = {name: Profile.model_validate(fields) for name, fields in (profiles or {}).items()}
    return Catalogue(config, [value_config("positivity", "simplicity")], ProfileSet(named), key_profiles)


def checked(fields: Mapping[str, Any] | None = None, generation_id: str = "chatcmpl-a") -> CheckedRequest:
    return catalogue().check(fields or {"objective_weights": {"positivity": 1}}, generation_id)


def generation(fields: Mapping[str, Any] | None = None, n: int = 1, prompts: int = 1) -> Generation:
    return Generation(checked(fields), n, OWNER, expected_prompts=prompts)


def trace(
    start: int, stop: int, *, candidates: bool = False, settings: Sequence[tuple[Any, ...]] = ()
) -> dict[str, Any]:
    """The worker's columns for tokens start .. stop-1; token i has id i and kl i/8, so that sums are exact."""
    wire: dict[str, Any] = {
        "from": start,
        "token_ids": list(range(start, stop)),
        "kl": [i / 8 for i in range(start, stop)],
        "advantages": [[i / 4, -i / 4] for i in range(start, stop)],
        "levels": [[0.5, 1.5] for _ in range(start, stop)],
        "fell_back": [False] * (stop - start),
        "dropped": [0.01] * (stop - start),
        "is_aborted": False,
        "settings": [list(setting) for setting in settings],
    }
    if candidates:
        one = CandidateColumns(array("i", [7]).tobytes(), array("f", [-0.5, -0.25, 1.0, 2.0]).tobytes())
        wire["candidates"] = [one.to_wire() for _ in range(start, stop)]
    return wire


class FakeEngine:
    """An engine client: generates `tokens` tokens a choice, and knows traces of guided generations."""

    def __init__(self, tokens: int = 4, overshoot: int = 2) -> None:
        """Args: `overshoot` is how many tokens the worker has sampled beyond those returned."""
        self.tokens = tokens
        self.overshoot = overshoot
        self.errored = False
        self.calls: list[tuple[str, Any]] = []
        self.params: list[Any] = []
        self.aborted: list[str] = []
        self.known: dict[str, int] = {}
        self.policy = catalogue().policy
        self.changed = ChangedGenerations()
        self.settings: dict[str, dict[ChoiceName, list[tuple[Any, ...]]]] = {}
        self.failure: Exception | None = None
        self.unreadable: set[str] = set()
        self.ended_without_values = False
        """Whether the worker ends every choice, since a value was no number."""
        self.hangs = False
        self.first_output_after_s = 0.0
        self.stops = asyncio.Event()
        """Cleared: calls wait until it is set again."""
        self.stops.set()

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **_: Any) -> AsyncGenerator[Any, None]:
        self.params.append(sampling_params)
        return self._outputs(sampling_params, request_id)

    async def _outputs(self, params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        guidance = (params.extra_args or {}).get(EXTRA_ARGS_KEY)
        try:
            await asyncio.sleep(self.first_output_after_s)
            for at in count():
                await asyncio.sleep(STEP_S)
                is_last = at >= self.tokens - 1  # a test may shorten what runs
                if isinstance(guidance, Guidance):
                    self.known[guidance.generation_id] = at + 1 + self.overshoot
                    self._note_settings(guidance, params.n, at)
                reason = "stop" if is_last else None
                children = [SimpleNamespace(index=i, token_ids=[at], finish_reason=reason) for i in range(params.n)]
                yield SimpleNamespace(outputs=children, last=is_last)
                if is_last:
                    return
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    def _note_settings(self, guidance: Guidance, n: int, at: int) -> None:
        """What holds for token `at`, wherever it differs from what held before."""
        overrides = self.changed.get(guidance.generation_id)
        for choice in (ChoiceName(guidance.prompt_index, i) for i in range(n)):
            held = self.policy.resolve(guidance if overrides is None else overrides.over(guidance, choice))
            known = self.settings.setdefault(guidance.generation_id, {}).setdefault(choice, [])
            if not known or known[-1][1:] != (held.weights, held.beta, held.kl_budget):
                known.append((at, held.weights, held.beta, held.kl_budget))

    async def check_health(self) -> None:
        if self.errored:
            raise RuntimeError("dead")

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        self.calls.append((method, args))
        await asyncio.sleep(STEP_S)
        await self.stops.wait()
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        if method == "mavis_attach":
            return [None, {"objectives": ["positivity", "simplicity"], "checkpoints": ["test-1"], "device": "cpu"}]
        wires, read, drop = args
        changes = [Change.from_wire(wire) for wire in wires]
        self.changed.take(changes)
        next_tokens = {change.generation_id: self._next_tokens(change.generation_id) for change in changes}
        traces = {
            gid: {
                choice: trace(
                    start,
                    min(self.known[gid], start + len(token_ids)),
                    candidates=True,
                    settings=self._settings_of(gid, choice),
                )
                for choice, (start, token_ids) in choices.items()
            }
            for gid, choices in read.items()
            if gid in self.known
        }
        for found in (found for choices in traces.values() for found in choices.values()):
            found["is_aborted"] = self.ended_without_values
        for gid in drop:
            self.known.pop(gid, None)
            self.settings.pop(gid, None)
        self.changed.drop(drop)
        failed = [gid for gid in self.unreadable if gid in traces]
        told = {gid: trace for gid, trace in traces.items() if gid not in failed}
        stats = {"value_fallback_rows": 0}
        return [None, {"traces": told, "failed": failed, "next_tokens": next_tokens, "stats": stats}]

    def _next_tokens(self, gid: str) -> dict[str, int]:
        """Of the choices that have begun, those that have not got their last token."""
        known = self.known.get(gid, 0)
        return {str(name): known for name in self.settings.get(gid, {}) if known < self.tokens}

    def _settings_of(self, gid: str, choice: str) -> list[tuple[Any, ...]]:
        return self.settings.get(gid, {}).get(ChoiceName.parse(choice), [])

    @property
    def exchanges(self) -> list[tuple[list[dict[str, Any]], dict[str, Any], list[str]]]:
        """What the workers were sent: changes, reads and drops of each exchange."""
        return [args for method, args in self.calls if method == "mavis_exchange"]

    @property
    def dropped(self) -> list[str]:
        return [gid for _, _, drops in self.exchanges for gid in drops]


class FakeServing:
    """Answers as vLLM's two serving classes do, in shape; the text is "t" a token."""

    def __init__(self, engine: Any, id_prefix: str) -> None:
        self.engine_client = engine
        self.id_prefix = id_prefix
        self.prompt_tokens = 4

    async def create_chat_completion(self, request: Any, raw_request: Any) -> Any:
        return await self._create(request, raw_request, 1)

    async def create_completion(self, request: Any, raw_request: Any) -> Any:
        return await self._create(request, raw_request, len(request.prompt) if isinstance(request.prompt, list) else 1)

    async def _create(self, request: Any, raw_request: Any, prompts: int) -> Any:
        base_id = raw_request.headers.get("X-Request-Id") or request.request_id
        response_id = self.id_prefix + base_id
        raw_request.state.request_metadata = RequestResponseMetadata(request_id=response_id)
        n = request.n or 1
        runs = [
            self.engine_client.generate(
                {"prompt_token_ids": [1] * self.prompt_tokens}, request.to_sampling_params(16, {}), f"{response_id}-{i}"
            )
            for i in range(prompts)
        ]
        if request.stream:
            return self._stream(runs, n, response_id)
        for run in runs:
            async for _ in run:
                pass
        return self._whole(n * prompts, response_id)

    async def _stream(self, runs: list[Any], n: int, response_id: str) -> AsyncGenerator[str, None]:
        for prompt, run in enumerate(runs):
            async for output in run:
                for child in output.outputs:
                    choice: dict[str, Any] = {"index": prompt * n + child.index, **self._piece("t")}
                    choice["finish_reason"] = "stop" if output.last else None
                    yield f"data: {json.dumps({'id': response_id, 'choices': [choice]})}\n\n"
        yield 'data: {"id":"x","choices":[],"usage":{"total_tokens":3}}\n\n'
        yield "data: [DONE]\n\n"

    def _whole(self, choices: int, response_id: str) -> Any:
        chats = self.id_prefix.startswith("chat")
        body = {
            "id": response_id,
            "model": "m",
            "usage": {},
            "choices": [
                {"index": i, "message": {"role": "assistant", "content": "tttt"}}
                if chats
                else {"index": i, "text": "t"}
                for i in range(choices)
            ],
        }
        return (ChatCompletionResponse if chats else CompletionResponse).model_validate(body)

    def _piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self.id_prefix.startswith("chat") else {"text": text}


LIMITS = Limits(max_n=128, max_choices=1024, max_weights=64, max_traced=500_000, max_exact_tokens=16_384)
GATE_LIMITS = GateLimits(max_header_bytes=32_768, max_body_bytes=1_000_000, max_waiting=64, max_wait_s=None)
MAX_MODEL_LEN = 4096


@cache
def routes_once() -> FastAPI:
    """An app with our routes: reading vLLM's request models takes FastAPI longer than most tests."""
    app = FastAPI()
    MavisEndpoints().attach_router(app)
    replace_route(app, routes.late_router)
    init_exception_handler(app)
    return app


def make_app(
    engine: FakeEngine,
    offered: Catalogue | None = None,
    *,
    keys: ApiKeys | None = None,
    limits: Limits = LIMITS,
    gate_limits: GateLimits = GATE_LIMITS,
) -> FastAPI:
    """Our routes over fakes, with vLLM's own exception handlers, wired as vLLM wires them, behind the gate."""
    app, template = FastAPI(), routes_once()
    app.router.routes[:] = template.router.routes
    app.exception_handlers = dict(template.exception_handlers)
    offered, keys = offered or catalogue(), keys or ApiKeys()
    engine.policy = offered.policy
    registry, load, audit = Registry(), EngineLoad(), Audit()
    app.state.args = Namespace(log_error_stack=False, sse_keep_alive_interval=0)
    app.state.engine_client = engine
    mailbox = Mailbox(engine, interval_s=0.01, liveness_s=0.05, retry_s=0.02)
    service = GenerationService(
        offered,
        registry,
        mailbox,
        ChangeLine(mailbox),
        Admission(limits, MAX_MODEL_LEN),
        audit,
        has_api_keys=bool(keys),
    )
    gateway = EngineGateway(engine, service, load)
    app.state.openai_serving_chat = FakeServing(gateway, "chatcmpl-")
    app.state.openai_serving_completion = FakeServing(gateway, "cmpl-")
    app.state.mavis = service
    app.state.mavis_drain = drain = Drain()
    app.state.mavis_heartbeat = Heartbeat(mailbox, stall_s=10.0, is_busy=lambda: True)
    app.state.mavis_load = load
    gate = {"keys": keys, "routes": Routes(is_open, generates), "limits": gate_limits}
    place_gate(app, **gate, load=load, drain=drain, audit=audit)
    return app


def api_keys(**secrets: dict[str, Any]) -> ApiKeys:
    """Keys by name, each with the secret "secret-<name>"."""
    return ApiKeys(ApiKey(name, digest_of(f"secret-{name}"), **more) for name, more in secrets.items())


def as_key(name: str) -> dict[str, str]:
    """The headers of a request under this key."""
    return {"Authorization": f"Bearer secret-{name}"}


def events(body: str) -> list[dict[str, Any]]:
    """The JSON events of a stream, without `[DONE]`."""
    pieces = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
    assert pieces[-1] == "[DONE]", pieces[-1]
    return [json.loads(piece) for piece in pieces[:-1]]


async def eventually(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait until something holds; how long that takes is the machine's business."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110, the fakes have no events
            await asyncio.sleep(0.002)
