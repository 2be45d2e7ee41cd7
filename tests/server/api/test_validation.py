"""Bad input over HTTP: 400 in OpenAI's error shape, naming the field, its value and what is allowed."""

import json
from typing import Any

import httpx
import pytest

from tests.server.kit import FakeEngine

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
WEIGHTS = {"objective_weights": {"positivity": 1.0}}

BAD: list[tuple[str, dict[str, Any], str, str, str]] = [
    # what is wrong, fields, param, in the message: the value, what is allowed
    ("unknown objective", {"objective_weights": {"humour": 1}}, "objective_weights.humour", "humour", "positivity"),
    ("string", {"objective_weights": {"positivity": "1"}}, "objective_weights.positivity", "'1'", "-2 to 2"),
    ("null weight", {"objective_weights": {"positivity": None}}, "objective_weights.positivity", "None", "-2 to 2"),
    ("bool weight", {"objective_weights": {"positivity": True}}, "objective_weights.positivity", "True", "-2 to 2"),
    ("list weight", {"objective_weights": {"positivity": [1]}}, "objective_weights.positivity", "[1]", "-2 to 2"),
    ("too large", {"objective_weights": {"positivity": 2.01}}, "objective_weights.positivity", "2.01", "-2 to 2"),
    ("own bounds", {"objective_weights": {"simplicity": -1.5}}, "objective_weights.simplicity", "-1.5", "-1 to 1"),
    ("giant int", {"objective_weights": {"positivity": 10**400}}, "objective_weights.positivity", "inf", "-2 to 2"),
    (
        "more weights than objectives",
        {"objective_weights": {"positivity": 1, "simplicity": 1, "other": 1}},
        "objective_weights.other",
        "other",
        "positivity, simplicity",
    ),
    ("name null", {"objective_weights": {"null": 1}}, "objective_weights.null", "null", "positivity"),
    ("empty name", {"objective_weights": {"": 1}}, "objective_weights.", "''", "positivity"),
    ("weights null", {"objective_weights": None}, "objective_weights", "None", "leaving the field out"),
    ("weights a list", {"objective_weights": [1]}, "objective_weights", "[1]", "positivity, simplicity"),
    ("weights a string", {"objective_weights": "positivity"}, "objective_weights", "positivity", "an object"),
    ("negative beta", {"beta": -0.1}, "beta", "-0.1", "from 0"),
    ("string beta", {"beta": "1"}, "beta", "'1'", "from 0"),
    ("null beta", {"beta": None}, "beta", "None", "leaving the field out"),
    ("bool beta", {"beta": True}, "beta", "True", "from 0"),
    ("giant beta", {"beta": 10**400}, "beta", "inf", "from 0"),
    ("no candidates", {"candidates": 0}, "candidates", "0", "1 to 64"),
    ("many candidates", {"candidates": 65}, "candidates", "65", "1 to 64"),
    ("half a candidate", {"candidates": 1.5}, "candidates", "1.5", "1 to 64"),
    ("bool candidates", {"candidates": True}, "candidates", "True", "1 to 64"),
    ("giant candidates", {"candidates": 10**400}, "candidates", "inf", "1 to 64"),
    ("budget 0", {"kl_budget": 0}, "kl_budget", "0", "above 0"),
    ("budget negative", {"kl_budget": -1}, "kl_budget", "-1", "above 0"),
    ("budget string", {"kl_budget": "1"}, "kl_budget", "'1'", "above 0"),
    ("fast scoring", {"scoring": "fast"}, "scoring", "fast", "exact"),
    ("other scoring", {"scoring": ["exact"]}, "scoring", "exact", "exact"),
    ("profile", {"profile": "kind"}, "profile", "kind", "there are none"),
    ("return_values string", {"return_values": "yes"}, "return_values", "yes", '"candidates"'),
    ("return_values int", {"return_values": 1}, "return_values", "1", '"candidates"'),
    ("return_values null", {"return_values": None}, "return_values", "None", "leaving the field out"),
    ("near-miss", {"objective_weight": {"positivity": 1}}, "objective_weight", "positivity", "objective_weights"),
    ("near-miss", {"obj_weights": {"positivity": 1}}, "obj_weights", "positivity", "objective_weights"),
    ("near-miss", {"kl_buget": 1}, "kl_buget", "1", "kl_budget"),
    ("near-miss", {"candidate": 4}, "candidate", "4", "candidates"),
    ("reserved key", {"vllm_xargs": {"mavis": 1}}, "vllm_xargs.mavis", "1", "objective_weights"),
    ("beam search", {**WEIGHTS, "use_beam_search": True, "n": 2}, "use_beam_search", "True", "false"),
    ("traced beam search", {"return_values": True, "use_beam_search": True}, "use_beam_search", "True", "false"),
    ("request id", {**WEIGHTS, "request_id": "x" * 129}, "request_id", "xxx", "1 to 128"),
]


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("what", "fields", "param", "value", "allowed"), BAD, ids=lambda part: str(part)[:40])
async def test_bad_input_is_refused_before_the_engine_hears_of_it(
    http: httpx.AsyncClient,
    engine: FakeEngine,
    route: str,
    stream: bool,
    what: str,
    fields: dict[str, Any],
    param: str,
    value: str,
    allowed: str,
) -> None:
    body = CHAT if "chat" in route else {"prompt": "hi", "max_tokens": 4}
    answer = await http.post(route, json={**body, "stream": stream, **fields})
    assert answer.status_code == 400, what
    error = answer.json()["error"]
    assert error["type"] == "BadRequestError"
    assert error["code"] == 400
    assert error["param"] == param
    assert value in error["message"]
    assert allowed in error["message"]
    assert "parameter=" not in error["message"]
    assert engine.params == []


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["objective_weights", "beta", "kl_budget"])
async def test_numbers_that_are_not_finite_are_refused(http: httpx.AsyncClient, number: str, field: str) -> None:
    """JSON's 1e999 parses to infinity, and Python's reader takes NaN."""
    value = f'{{"positivity": {number}}}' if field == "objective_weights" else number
    raw = json.dumps(CHAT)[:-1] + f', "{field}": {value}}}'
    answer = await http.post("/v1/chat/completions", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


@pytest.mark.parametrize("header", ["", "x" * 129, "a\tb"])
async def test_a_request_id_that_does_not_print_is_refused(http: httpx.AsyncClient, header: str) -> None:
    answer = await http.post("/v1/chat/completions", json={**CHAT, **WEIGHTS}, headers={"X-Request-Id": header})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Request-Id"


@pytest.mark.parametrize(
    "body", ["{", "[]", '"x"', '{"objective_weights": {null: 1}}', "[" * 5000, "9" * 5000], ids=str.__len__
)
async def test_a_body_that_is_no_request_is_400_in_the_same_shape(http: httpx.AsyncClient, body: str) -> None:
    answer = await http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_wrong_fields_of_vllms_own_stay_vllms_to_refuse(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", json={**CHAT, **WEIGHTS, "temperature": "hot"})
    assert answer.status_code == 400
    assert "temperature" in answer.json()["error"]["param"]


async def test_unknown_fields_that_are_not_like_ours_are_ignored_as_vllm_does(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", json={**CHAT, "metadata": {"a": "b"}, "store": True})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"objective_weights": {}},
        {"objective_weights": {"positivity": 2, "simplicity": -1}},
        {"objective_weights": {"positivity": -2.0}, "beta": 0.5, "candidates": 1, "kl_budget": 0.1},
        {**WEIGHTS, "kl_budget": None, "scoring": "exact", "return_values": False},
        {"return_values": "candidates", "candidates": 64},
        {"use_beam_search": True, "objective_weights": {"positivity": 0}},
    ],
)
async def test_good_input_is_taken(http: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    answer = await http.post("/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 200, answer.text
