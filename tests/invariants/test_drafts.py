"""Tilting together with speculative decoding, which vLLM's V2 runner alone offers to logits processors.

Drafts are proposed by what stands in the text already (n-grams); whichever drafter proposes them, they reach us as rows
of the same kind. Every test says in a line which bug it would catch.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaForCausalLM

from tests.conftest import TINY_VOCAB
from tests.invariants.conftest import only_float32, tiny_guide
from tests.invariants.engine import IS_V2, counted, generate, open_engine, read_traces
from tests.invariants.kit import assert_trace_is_exact, guided, request
from tests.invariants.test_fast_engine import assert_trace_is_the_probes, hidden_states
from tests.valuemodels.scoring.kit import scoring_batch
from valuemodels.contract.guidance import Scoring
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.fast import FastScorer
from valuemodels.tilting import Candidates, tilt, weighted_values

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not IS_V2, reason="vLLM's V1 runner takes no logits processor with speculative decoding"),
]

DRAFTS = 3
SAMPLES, BATCH = 192, 64
LEAST = 5
"""Of a text, expected: what comes less often is counted together."""
TEMPERATURE = 0.5
WEIGHTS: dict[Scoring, dict[str, float]] = {
    "fast": {"warmth": 1.0, "brevity": -0.5},
    "exact": {"warmth": 0.2, "brevity": -0.1},
}
"""So that several texts come often."""
SCORINGS: list[Scoring] = ["fast", "exact"]


@pytest.fixture(scope="session")
def drafting(engine_base: str, engine_checkpoint: Path) -> Any:
    """Open to the end: an engine that is closed takes its process's groups along, and with them the other engines."""
    drafter = {"method": "ngram", "num_speculative_tokens": DRAFTS, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    return open_engine(engine_base, tiny_guide(engine_base, engine_checkpoint), speculative_config=drafter)


def repetitive(content: int, **fields: Any) -> dict[str, Any]:
    """A request whose prompt says everything twice, so that there is something to propose."""
    asked = request(9, content, **fields)
    return {**asked, "prompt": 2 * asked["prompt"]}


@only_float32
@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_greedy_text_is_the_same_with_drafts_as_without(
    engine: Any, drafting: Any, uncached: ValueModel, base_model: LlamaForCausalLM, fast: FastScorer, scoring: Scoring
) -> None:
    """Catches rows of drafts that are not tilted, or after another prefix, and traces that keep what was refused."""
    asked = [repetitive(300 + i, guidance=guided(scoring=scoring), max_tokens=24) for i in range(4)]
    asked.insert(2, repetitive(310, max_tokens=24))
    expected = generate(engine, asked)
    before = counted(drafting, "spec_decode_num_accepted_tokens")
    again = [{**r, "guidance": replace(r["guidance"], generation_id=r["guidance"].generation_id + "d")}
             if "guidance" in r else r for r in asked]  # fmt: skip
    answers = generate(drafting, again)
    assert answers == expected
    accepted = counted(drafting, "spec_decode_num_accepted_tokens") - before
    assert 0 < accepted < counted(drafting, "spec_decode_num_draft_tokens"), "the test needs some of both"
    for r, (output,) in zip(again, answers, strict=True):
        if "guidance" in r:
            name = r["guidance"].generation_id
            trace = read_traces(drafting, name)[name]["0:0"]
            if scoring == "exact":
                assert_trace_is_exact(uncached, r["prompt"], output, trace)
            else:
                assert_trace_is_the_probes(base_model, fast, r["prompt"], output, trace)


@only_float32
@pytest.mark.parametrize("scoring", SCORINGS)
def test_what_is_sampled_with_drafts_has_the_tilted_distribution(
    drafting: Any, uncached: ValueModel, base_model: LlamaForCausalLM, fast: FastScorer, scoring: Scoring
) -> None:
    """Catches drafts that are accepted or refused by the base's probabilities, and not by the tilted ones.

    The vocabulary is small enough for the exact distribution of the first two tokens, the second of which is proposed.
    """
    guidance = guided(scoring=scoring, trace="totals", weights=WEIGHTS[scoring])
    asked = repetitive(320, guidance=guidance, max_tokens=2, temperature=TEMPERATURE)
    before = counted(drafting, "spec_decode_num_draft_tokens")
    drawn: Counter[tuple[int, ...]] = Counter()
    for seed in range(0, SAMPLES, BATCH):
        for answer in generate(drafting, [{**asked, "n": BATCH, "seed": seed}])[0]:
            drawn[tuple(answer)] += 1
    assert counted(drafting, "spec_decode_num_draft_tokens") - before >= SAMPLES
    first = tilted(uncached, base_model, fast, asked["prompt"], scoring)
    chances = {
        (one, two): first[one] * chance
        for one in range(TINY_VOCAB)
        if SAMPLES * first[one] >= LEAST
        for two, chance in enumerate(tilted(uncached, base_model, fast, [*asked["prompt"], one], scoring))
        if SAMPLES * first[one] * chance >= LEAST
    }
    assert len(chances) >= 5, "the test needs texts that come often"
    seen = [drawn[text] for text in chances]
    expected = [SAMPLES * chance for chance in chances.values()]
    found = chisquare([*seen, SAMPLES - sum(seen)], [*expected, SAMPLES - sum(expected)])
    assert found.pvalue > 0.01


@torch.inference_mode()
def tilted(
    model: ValueModel, base: LlamaForCausalLM, fast: FastScorer, prefix: list[int], scoring: Scoring
) -> list[float]:
    """The distribution of the next token, without engine, cache and drafts, over the whole vocabulary."""
    state = hidden_states(base, prefix)[-1][None]
    logits = base.lm_head(state).float()
    candidates = Candidates(torch.arange(TINY_VOCAB)[None], logits)
    if scoring == "exact":
        rows = torch.tensor([[*prefix, token] for token in range(TINY_VOCAB)])
        values = model(rows)[:, -1][None]
        scales = [objective.scale for objective in model.config.objectives]
    else:
        values = fast.score(scoring_batch(candidates, state))
        scales = list(fast.scales)
    weights = torch.tensor([list(WEIGHTS[scoring].values())]) * torch.tensor([scales])
    found = tilt(candidates, weighted_values(values, weights), torch.tensor([TEMPERATURE]))
    return torch.softmax(found.logits[0] / TEMPERATURE, 0).tolist()
