"""The HTTP contract, as curl sees it."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import running, wait_for

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
WEIGHTS = {"positivity": 1.0, "simplicity": -0.5}
MESSAGES = [{"role": "user", "content": "How was the weather on your last holiday?"}]


def chat(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post(CHAT, json={"messages": MESSAGES, "max_tokens": 16, "seed": 7, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON events of a stream, which must end with [DONE]."""
    found: list[dict[str, Any]] = []
    lines: list[str] = []
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    found = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert not any("error" in event for event in found), found
    return found


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["code"] == answer.status_code
    return error


def test_status_routes(http: httpx.Client) -> None:
    assert http.get("/health").status_code == 200
    assert http.get("/ready").json() == {"status": "ready"}
    assert http.get("/v1/models").json()["data"][0]["id"]
    metrics = http.get("/metrics").text
    assert "vllm:num_requests_running" in metrics and "mavis_requests_total" in metrics


def moved(block: dict[str, Any]) -> dict[str, float]:
    """The weights of a `mavis` block that are not 0."""
    return {name: weight for name, weight in block["objective_weights"].items() if weight}


def test_objectives_say_what_a_client_needs_to_know(http: httpx.Client) -> None:
    listing = http.get("/v1/objectives").json()
    assert listing["object"] == "list"
    by_id = {entry["id"]: entry for entry in listing["data"]}
    assert {"positivity", "simplicity"} <= by_id.keys()
    entry = by_id["positivity"]
    assert (
        entry["bounds"] == [-2.0, 2.0] and entry["default"] == 0.0 and entry["scorings"] == ["exact", "fast", "hybrid"]
    )
    assert entry["description"] and entry["checkpoint"] and entry["reward"] == "positivity" and entry["metrics"]


def test_a_plain_answer_is_vllms_and_says_nothing_of_values(http: httpx.Client) -> None:
    answer = chat(http)
    assert "mavis" not in answer["choices"][0]
    assert answer["choices"][0]["message"] == chat(http, objective_weights={"positivity": 0})["choices"][0]["message"]
    assert answer["choices"][0]["message"] == chat(http, objective_weights=WEIGHTS, beta=0)["choices"][0]["message"]


def test_a_guided_answer_says_what_held_and_what_it_did(http: httpx.Client) -> None:
    block = chat(http, objective_weights={"positivity": 1.5}, kl_budget=0.3, candidates=20)["choices"][0]["mavis"]
    assert moved(block) == {"positivity": 1.5}
    assert block["beta"] == 1.0 and block["scoring"] == "fast" and block["checkpoint"]
    assert 0 < block["kl"] <= 16 * 0.3 + 1e-3
    assert block["values"].keys() == block["objective_weights"].keys() > WEIGHTS.keys()
    assert "tokens" not in block


@pytest.mark.parametrize("scoring", ["fast", "exact", "hybrid"])
@pytest.mark.parametrize("detail", [True, "candidates"])
def test_token_values_add_up_to_the_totals(http: httpx.Client, detail: Any, scoring: str) -> None:
    answer = chat(http, objective_weights=WEIGHTS, scoring=scoring, return_values=detail, return_token_ids=True)
    choice = answer["choices"][0]
    tokens = choice["mavis"]["tokens"]
    assert choice["mavis"]["scoring"] == scoring and all(("levels" in t) == (scoring == "exact") for t in tokens)
    assert [token["token_id"] for token in tokens] == choice["token_ids"]
    assert sum(token["kl"] for token in tokens) == pytest.approx(choice["mavis"]["kl"])
    for name, total in choice["mavis"]["values"].items():
        assert sum(token["values"][name] for token in tokens) == pytest.approx(total)
    assert all(("candidates" in token) == (detail == "candidates") for token in tokens)
    if detail == "candidates":
        assert token_in_its_candidates(tokens)


def token_in_its_candidates(tokens: list[dict[str, Any]]) -> bool:
    return all(token["token_id"] in [c["token_id"] for c in token["candidates"]] for token in tokens)


@pytest.mark.parametrize("extra", [{}, {"objective_weights": WEIGHTS}])
def test_a_stream_says_what_the_whole_answer_says(http: httpx.Client, extra: Any) -> None:
    body = {"messages": MESSAGES, "max_tokens": 20, "seed": 3, "return_values": bool(extra), **extra}
    whole = chat(http, **body)["choices"][0]
    chunks = events(http, CHAT, {**body, "stream_options": {"include_usage": True}})
    deltas = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(d["delta"].get("content") or "" for d in deltas) == whole["message"]["content"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
    if extra:
        streamed = [token for d in deltas for token in d.get("mavis", {}).get("tokens", [])]
        final = next(d["mavis"] for d in deltas if d.get("finish_reason"))
        assert [t["token_id"] for t in streamed] == [t["token_id"] for t in whole["mavis"]["tokens"]]
        assert final["kl"] == pytest.approx(whole["mavis"]["kl"], rel=1e-3)
        assert all(d.get("token_ids") is None for d in deltas)
    else:
        assert not any("mavis" in d for d in deltas)


@pytest.mark.parametrize("weights", [{}, {"objective_weights": WEIGHTS}])
class TestWhatVllmOffersKeepsWorking:
    def test_n(self, http: httpx.Client, weights: Any) -> None:
        answer = chat(http, n=3, temperature=1.0, **weights)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1
        assert all(("mavis" in choice) == bool(weights) for choice in answer["choices"])

    def test_seed(self, http: httpx.Client, weights: Any) -> None:
        first, second = (chat(http, temperature=1.0, **weights)["choices"][0]["message"] for _ in range(2))
        assert first == second

    def test_stop_strings_cut_the_trace_with_the_text(self, http: httpx.Client, weights: Any) -> None:
        asked = {"max_tokens": 40, "ignore_eos": True, **weights}
        content = chat(http, **asked)["choices"][0]["message"]["content"]
        stop = content[len(content) // 2 :][:4]
        answer = chat(http, stop=[stop], return_values=bool(weights), **asked)
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "stop" and content.startswith(choice["message"]["content"])
        assert stop not in choice["message"]["content"] and answer["usage"]["completion_tokens"] < 40
        if weights:
            assert len(choice["mavis"]["tokens"]) == answer["usage"]["completion_tokens"]

    def test_logprobs(self, http: httpx.Client, weights: Any) -> None:
        entries = chat(http, logprobs=True, top_logprobs=3, **weights)["choices"][0]["logprobs"]["content"]
        assert len(entries) == 16 and all(len(entry["top_logprobs"]) == 3 for entry in entries)

    def test_json_schema(self, http: httpx.Client, weights: Any) -> None:
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
        answer = chat(
            http,
            max_tokens=60,
            response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
            **weights,
        )
        assert json.loads(answer["choices"][0]["message"]["content"]).keys() == {"name", "age"}

    def test_tools(self, http: httpx.Client, weights: Any) -> None:
        tool = {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}}},
            },
        }
        choice = {"type": "function", "function": {"name": "weather"}}
        answer = chat(http, max_tokens=150, temperature=0, tools=[tool], tool_choice=choice, **weights)
        call = answer["choices"][0]["message"]["tool_calls"][0]
        assert call["function"]["name"] == "weather" and isinstance(json.loads(call["function"]["arguments"]), dict)

    def test_several_prompts_and_echo(self, http: httpx.Client, weights: Any) -> None:
        body = {"prompt": ["One day", "Once upon a time"], "max_tokens": 8, "n": 2, "seed": 1, **weights}
        answer = http.post(COMPLETIONS, json=body).json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        echoed = http.post(COMPLETIONS, json={**body, "echo": True, "return_values": bool(weights)}).json()
        assert echoed["choices"][0]["text"] == "One day" + answer["choices"][0]["text"]
        if weights:
            assert all(len(choice["mavis"]["tokens"]) == 8 for choice in echoed["choices"])

    def test_streamed_completions(self, http: httpx.Client, weights: Any) -> None:
        body = {"prompt": "The sea", "max_tokens": 8, "seed": 1, **weights}
        whole = http.post(COMPLETIONS, json=body).json()["choices"][0]
        streamed = [choice for chunk in events(http, COMPLETIONS, body) for choice in chunk["choices"]]
        assert "".join(choice["text"] for choice in streamed) == whole["text"]
        assert ("mavis" in streamed[-1]) == bool(weights)


BAD = [
    ({"objective_weights": {"humour": 1}}, "objective_weights.humour", "positivity, simplicity"),
    ({"objective_weights": {"positivity": "1"}}, "objective_weights.positivity", "a number from -2 to 2"),
    ({"objective_weights": {"positivity": None}}, "objective_weights.positivity", "a number from -2 to 2"),
    ({"objective_weights": {"positivity": 2.1}}, "objective_weights.positivity", "a number from -2 to 2"),
    ({"objective_weights": {"positivity": True}}, "objective_weights.positivity", "a number from -2 to 2"),
    ({"objective_weights": {"positivity": 1, "simplicity": 1, "x": 1}}, "objective_weights.x", "positivity"),
    ({"objective_weights": None}, "objective_weights", "allowed"),
    ({"objective_weights": [1, 2]}, "objective_weights", "an object"),
    ({"beta": -1}, "beta", "a number from 0"),
    ({"beta": "strong"}, "beta", "a number from 0"),
    ({"candidates": 0}, "candidates", "an integer from 1 to 64"),
    ({"candidates": 65}, "candidates", "an integer from 1 to 64"),
    ({"kl_budget": 0}, "kl_budget", "above 0"),
    ({"scoring": "slow"}, "scoring", "one of exact, fast, hybrid"),
    ({"profile": "kind"}, "profile", "one of sunny"),
    ({"return_values": "all"}, "return_values", "candidates"),
    ({"objective_weight": {"positivity": 1}}, "objective_weight", "objective_weights"),
    ({"obj_weights": {"positivity": 1}}, "obj_weights", "objective_weights"),
    ({"kl_buget": 1}, "kl_buget", "kl_budget"),
    ({"vllm_xargs": {"mavis": "x"}}, "vllm_xargs.mavis", "reserved"),
    ({"use_beam_search": True, "n": 2, "objective_weights": {"positivity": 1}}, "use_beam_search", "allowed"),
]


@pytest.mark.parametrize(("fields", "param", "says"), BAD, ids=[json.dumps(case[0])[:60] for case in BAD])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_bad_input_is_a_400_that_names_field_value_and_what_is_allowed(
    http: httpx.Client, path: Any, fields: Any, param: Any, says: Any
) -> None:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hello"}
    answer = http.post(path, json={**prompt, "max_tokens": 4, **fields})
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["param"] == param and says in error["message"] and param in error["message"]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("field", ['"objective_weights": {"positivity": %s}', '"beta": %s', '"kl_budget": %s'])
def test_numbers_that_json_cannot_mean_are_refused(http: httpx.Client, number: Any, field: Any) -> None:
    body = '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, ' + field % number + "}"
    answer = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


def test_other_routes_cannot_smuggle_guidance_into_the_worker(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 4, "vllm_xargs": {"mavis": "x"}})
    assert answer.status_code == 400 and "reserved" in answer.text
    assert http.get("/ready").status_code == 200


def test_an_id_that_is_live_is_refused_and_free_again_afterwards(http: httpx.Client) -> None:
    headers = {"X-Request-Id": "the-same-id"}
    body = {"messages": MESSAGES, "max_tokens": 2000, "ignore_eos": True, "objective_weights": WEIGHTS, "stream": True}
    with http.stream("POST", CHAT, json=body, headers=headers) as first:
        lines = first.iter_lines()
        next(lines)
        second = http.post(CHAT, json={**body, "stream": False}, headers=headers)
        assert second.status_code == 409
        error_of(second)
    assert wait_for(
        lambda: http.post(CHAT, json={**body, "stream": False, "max_tokens": 2}, headers=headers).status_code == 200
    )


def test_a_client_that_goes_away_frees_its_slot(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 2000, "ignore_eos": True, "objective_weights": WEIGHTS, "stream": True}
    with http.stream("POST", CHAT, json=body) as answer:
        next(answer.iter_lines())
        assert running(http) >= 1
    assert wait_for(lambda: running(http) == 0), "the abandoned generation still runs"
