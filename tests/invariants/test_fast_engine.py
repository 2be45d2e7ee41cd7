"""What must hold of fast scoring on the real engine. Every test says in a line which bug it would catch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.invariants.conftest import only_float32
from tests.invariants.engine import BATCHED_TOKENS, generate, preemptions, read_traces
from tests.invariants.kit import guided, request
from tests.valuemodels.scoring.kit import scoring_batch
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.guide_config import DEFAULT_HYBRID_CANDIDATES
from valuemodels.guide.recorder import read_positions
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.fast import FastScorer
from valuemodels.scoring.hybrid import pick
from valuemodels.tilting import Candidates

pytestmark = pytest.mark.engine

TOLERANCE = 1e-3


def hidden_states(model: LlamaForCausalLM, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        states: torch.Tensor = model.model(torch.tensor([tokens])).last_hidden_state[0]
        return states


def assert_trace_is_the_probes(
    base: LlamaForCausalLM, fast: FastScorer, prefix: list[int], output: list[int], trace: dict[str, Any]
) -> None:
    """Every candidate's value equals the probe's, on the state an uncached forward of the base gives, centred."""
    assert trace["token_ids"] == output
    states = hidden_states(base, [*prefix, *output])[len(prefix) - 1 :]
    for position, table in enumerate(trace["candidates"]):
        ids = torch.tensor([[entry.token_id for entry in table]])
        logprobs = torch.tensor([[entry.logprob for entry in table]])
        values = fast.score(scoring_batch(Candidates(ids, logprobs), states[position][None]))[0]
        expected = values - (logprobs[0].exp()[:, None] * values).sum(0)
        found = torch.tensor([entry.advantages for entry in table])
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert trace["levels"] == [None] * len(output)


@only_float32
def test_values_are_those_of_the_bases_own_states_in_a_mixed_batch(
    engine: Any, base_model: LlamaForCausalLM, fast: FastScorer
) -> None:
    """Catches states of another row or step, and rows of exact scoring that disturb those of fast scoring."""
    asked = [
        request(4 + 5 * i, 200 + i, guided(scoring="fast" if i % 2 else "exact"), temperature=1.0) for i in range(6)
    ]
    asked.insert(2, request(30, 230))
    answers = generate(engine, asked)
    for r, (output,) in zip(asked, answers, strict=True):
        if "guidance" in r and r["guidance"].scoring == "fast":
            trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
            assert_trace_is_the_probes(base_model, fast, r["prompt"], output, trace)


@only_float32
def test_chunked_prompts_and_preemption_change_nothing(
    engine: Any, base_model: LlamaForCausalLM, fast: FastScorer
) -> None:
    """Catches states of a prompt's chunk taken for those of its end, and anything that a preemption could lose."""
    before = preemptions(engine)
    asked = [request(40, 240 + i, guided(scoring="fast"), max_tokens=60) for i in range(7)]
    asked.append(request(3 * BATCHED_TOKENS + 7, 250, guided(scoring="fast")))
    answers = generate(engine, asked)
    assert preemptions(engine) > before, "the test needs an engine short of memory"
    for r, (output,) in zip(asked, answers, strict=True):
        trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
        assert_trace_is_the_probes(base_model, fast, r["prompt"], output, trace)


@only_float32
def test_prompt_logprobs_do_not_shift_the_states(engine: Any, base_model: LlamaForCausalLM, fast: FastScorer) -> None:
    """Catches states of the rows that vLLM makes for prompt logprobs in the same step."""
    asked = [request(12 + i, 260 + i, guided(scoring="fast"), prompt_logprobs=2 if i % 2 else None) for i in range(4)]
    for r, (output,) in zip(asked, generate(engine, asked), strict=True):
        trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
        assert_trace_is_the_probes(base_model, fast, r["prompt"], output, trace)


@only_float32
def test_positions_are_recorded_with_the_states_they_were_scored_at(
    engine: Any, base_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    """Catches training data whose states are of other positions, or other generations, than they say."""
    engine.collective_rpc("mavis_record", args=(str(tmp_path),))
    asked = [
        request(14, 270, guided(weights={}, trace="values", scoring="fast")),
        request(9, 271, guided(scoring="fast")),
        request(11, 272, guided(scoring="exact")),
    ]
    answers = generate(engine, asked)
    engine.collective_rpc("mavis_record", args=(None,))
    found = read_positions(tmp_path)
    assert len(found) == sum(len(output) for (output,) in answers), "one position a token"
    for each, (output,) in zip(asked, answers, strict=True):
        number = found.sequences.index(each["guidance"].generation_id)
        rows = (found.sequence == number).nonzero().flatten()
        rows = rows[found.place[rows].argsort()]
        assert found.place[rows].tolist() == list(range(len(output)))
        states = hidden_states(base_model, [*each["prompt"], *output])[len(each["prompt"]) - 1 : -1]
        torch.testing.assert_close(found.hidden[rows].float(), states, atol=TOLERANCE, rtol=TOLERANCE)


@only_float32
def test_every_choice_of_a_request_has_its_own_states(
    engine: Any, base_model: LlamaForCausalLM, fast: FastScorer
) -> None:
    """Catches choices that share a trace, or another choice's states."""
    asked = request(14, 280, guided(scoring="fast"), n=3, temperature=1.0, seed=5)
    (outputs,) = generate(engine, [asked])
    traces = read_traces(engine, asked["guidance"].generation_id)[asked["guidance"].generation_id]
    assert len({tuple(output) for output in outputs}) == 3
    for child, output in enumerate(outputs):
        assert_trace_is_the_probes(base_model, fast, asked["prompt"], output, traces[f"0:{child}"])


@only_float32
def test_hybrid_values_are_exact_among_the_likely_in_a_mixed_batch(
    engine: Any, base_model: LlamaForCausalLM, fast: FastScorer, uncached: ValueModel
) -> None:
    """Catches rows of one scoring that get another's values, and candidates that get another candidate's."""
    scorings: tuple[Scoring, ...] = ("hybrid", "exact", "fast")
    asked = [request(4 + 5 * i, 300 + i, guided(scoring=scorings[i % 3]), temperature=1.0) for i in range(6)]
    answers = generate(engine, asked)
    compared = 0
    for r, (output,) in zip(asked[::3], answers[::3], strict=True):
        trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
        assert trace["levels"] == [None] * len(output)
        states = hidden_states(base_model, [*r["prompt"], *output])[len(r["prompt"]) - 1 :]
        coefficients = [w * s for w, s in zip((1.0, -0.5), uncached_scales(uncached), strict=True)]
        for position, table in enumerate(trace["candidates"]):
            ids = torch.tensor([[entry.token_id for entry in table]])
            logprobs = torch.tensor([[entry.logprob for entry in table]])
            batch = scoring_batch(Candidates(ids, logprobs), states[position][None], coefficients=coefficients)
            ratio = torch.tensor(fast.scales) / torch.tensor(uncached_scales(uncached))
            places, picked = pick(batch, fast.score(batch) * ratio, DEFAULT_HYBRID_CANDIDATES)
            likely = places[0][picked[0]]
            prefix = torch.tensor([*r["prompt"], *output[:position]]).expand(len(likely), -1)
            expected = uncached(torch.cat([prefix, ids[0, likely][:, None]], dim=1))[:, -1]
            found = torch.tensor([table[place].advantages for place in likely.tolist()])
            if len(likely) > 1:
                compared += 1
                torch.testing.assert_close(
                    found - found[0], expected - expected[0], atol=TOLERANCE, rtol=TOLERANCE, msg=f"at {position}"
                )
    assert compared > 10


def uncached_scales(model: ValueModel) -> list[float]:
    return [objective.scale or 0.0 for objective in model.config.objectives]
