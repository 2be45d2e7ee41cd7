"""Sampling from experts: what is mixed, what it is from the base, and that a batch changes no reply."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

from training.experts.policy import MixedPolicy, rewarded_soup
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request

PROMPTS = [(5, 9, 11, 7), (6, 8), (12, 13, 14, 15, 16, 17)]
LIMITS = Limits(9, ignore_eos=True)


@pytest.fixture(scope="module")
def experts(chat_base: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random adapters of the base, strong enough to be told apart."""
    made = {}
    for seed, name in enumerate(("warm", "brief")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(chat_base)
        lora = LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False
        )
        made[name] = tmp_path_factory.mktemp("experts") / name
        get_peft_model(model, lora).save_pretrained(str(made[name]))
    return made


def alone(base: str, experts: dict[str, Path], name: str) -> Any:
    return rewarded_soup(base, experts, {name: 1.0})


def logprobs(model: Any, reply: Reply) -> torch.Tensor:
    """[tokens, vocabulary] after the prompt, read at once and without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([[*reply.prompt_token_ids, *reply.token_ids]])).logits[0]
    found: torch.Tensor = logits[len(reply.prompt_token_ids) - 1 : -1].log_softmax(-1)
    return found


def of_tokens(table: torch.Tensor, reply: Reply) -> list[float]:
    found: list[float] = table.gather(1, torch.tensor(reply.token_ids)[:, None])[:, 0].tolist()
    return found


def requests(count: int = 3) -> list[Request]:
    return [Request(f"{n}", PROMPTS[n % 3], 0, 100 + n) for n in range(count)]


@pytest.fixture(scope="module")
def base_model(chat_base: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(chat_base).eval()


def test_a_mixture_is_the_weighted_product_at_every_token(
    chat_base: str, experts: dict[str, Path], base_model: Any
) -> None:
    models = [alone(chat_base, experts, name) for name in experts]
    for reply in MixedPolicy(chat_base, models, [0.3, 0.7]).sample(requests(), LIMITS):
        tables = [logprobs(model, reply) for model in models]
        mixed = (0.3 * tables[0] + 0.7 * tables[1]).log_softmax(-1)
        of_base = of_tokens(logprobs(base_model, reply), reply)
        expected = [own - base for own, base in zip(of_tokens(mixed, reply), of_base, strict=True)]
        assert reply.log_ratios == pytest.approx(expected, abs=1e-4)
        assert reply.base_logprob == pytest.approx(sum(of_base), abs=1e-3)
        assert reply.kl_nats == pytest.approx(sum(expected), abs=1e-3) and len(reply.token_ids) == 9


def test_of_the_base_alone_it_is_the_base(chat_base: str, base_model: Any) -> None:
    for reply in MixedPolicy(chat_base, [base_model], [1.0]).sample(requests(), LIMITS):
        assert reply.log_ratios == pytest.approx([0.0] * 9, abs=1e-6)


def test_a_reply_depends_on_its_own_prompt_and_seed_alone(chat_base: str, experts: dict[str, Path]) -> None:
    """Would catch padding that is read, dice that are shared, and replies that change places."""
    policy = MixedPolicy(chat_base, [alone(chat_base, experts, "warm")], [1.0])
    together = policy.sample(requests(7), LIMITS)
    for request, reply in zip(requests(7), together, strict=True):
        (single,) = policy.sample([request], LIMITS)
        assert (single.token_ids, single.prompt_id) == (reply.token_ids, reply.prompt_id)
    assert len({reply.token_ids for reply in together}) > 1


def test_samples_follow_the_probabilities(chat_base: str, experts: dict[str, Path]) -> None:
    model = alone(chat_base, experts, "warm")
    replies = MixedPolicy(chat_base, [model], [1.0]).sample(
        [Request("a", PROMPTS[0], n, n) for n in range(2000)], Limits(1)
    )
    expected = logprobs(model, replies[0])[0].double().exp()
    counts = torch.bincount(torch.tensor([reply.token_ids[0] for reply in replies]), minlength=len(expected))
    assert chisquare(counts, expected / expected.sum() * len(replies)).pvalue > 0.001


def test_a_soup_adds_up_the_changes_of_weights(chat_base: str, experts: dict[str, Path], base_model: Any) -> None:
    soup = rewarded_soup(chat_base, experts, {"warm": 0.25, "brief": 0.75}).state_dict()
    parts = {name: alone(chat_base, experts, name).state_dict() for name in experts}
    changed = 0
    for name, weight in base_model.state_dict().items():
        expected = weight + 0.25 * (parts["warm"][name] - weight) + 0.75 * (parts["brief"][name] - weight)
        torch.testing.assert_close(soup[name], expected, atol=1e-5, rtol=1e-4)
        changed += not torch.equal(soup[name], weight)
    assert changed > 5


def test_a_reply_ends_with_the_end_of_a_turn_or_at_its_own_limit(chat_base: str, base_model: Any) -> None:
    policy = MixedPolicy(chat_base, [base_model], [1.0])
    many = policy.sample([Request("a", PROMPTS[0], n, n) for n in range(300)], Limits(30))
    ended = [reply for reply in many if reply.finish_reason == "stop"]
    assert ended and all(reply.token_ids[-1] in policy._ends for reply in ended)
    assert all(not set(reply.token_ids[:-1]) & policy._ends for reply in many)
    assert all(len(reply.token_ids) == 30 for reply in many if reply.finish_reason == "length")
    for place in (0, 150, 299):  # whoever ended before it
        (single,) = policy.sample([Request("a", PROMPTS[0], place, place)], Limits(30))
        assert single.token_ids == many[place].token_ids
    (short,) = policy.sample([Request("a", PROMPTS[0], 0, 1, max_tokens=3)], LIMITS)
    assert len(short.token_ids) == 3
