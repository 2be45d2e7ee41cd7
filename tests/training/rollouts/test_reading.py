"""What the real engine notes of replies: the base's own log-probabilities, and what the likeliest tokens leave out."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.conftest import random_tensors, save_tiny_llama
from training.recipe import EngineRecipe
from training.rollouts.engine import Limits, Reply, RolloutEngine
from training.rollouts.requests import Request
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig
from valuemodels.models.checkpoint import save_checkpoint

pytestmark = pytest.mark.engine

PROMPT = (5, 9, 11, 7)
TOP = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A head size that vLLM's attention kernels accept, and probabilities that are far from even."""
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.15}
    return save_tiny_llama(tmp_path_factory.mktemp("read-base"), **sizes)


@pytest.fixture(scope="module")
def engine(
    base: str, tiny_config: Callable[..., ValueConfig], tmp_path_factory: pytest.TempPathFactory
) -> RolloutEngine:
    folder = tmp_path_factory.mktemp("read-values") / "tiny"
    save_checkpoint(folder, tiny_config(), random_tensors(tiny_config(), base))
    recipe = EngineRecipe(dtype="float32", max_num_seqs=8, max_model_len=128)
    guide = GuideConfig(checkpoints=(str(folder),), base_model=base, value_dtype="float32")
    return RolloutEngine(base, recipe, guide)


@pytest.fixture(scope="module")
def replies(engine: RolloutEngine) -> list[Reply]:
    guidance = Guidance("tilted", {"warmth": 2.0}, candidates=TOP)
    requests = [Request("plain", PROMPT, 0, 1), Request("tilted", PROMPT, 0, 2, guidance)]
    return engine.sample(requests, Limits(12, read_top=TOP))


@pytest.fixture(scope="module")
def logprobs(base: str, replies: list[Reply]) -> list[torch.Tensor]:
    """[tokens, vocabulary] of every reply, by transformers."""
    model = LlamaForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        logits = [model(torch.tensor([[*PROMPT, *reply.token_ids]])).logits[0] for reply in replies]
    return [each[len(PROMPT) - 1 : -1].log_softmax(-1) for each in logits]


def test_a_reply_is_read_as_transformers_reads_it(replies: list[Reply], logprobs: list[torch.Tensor]) -> None:
    for reply, found in zip(replies, logprobs, strict=True):
        sampled = found.gather(1, torch.tensor(reply.token_ids)[:, None])
        assert reply.base_logprob == pytest.approx(float(sampled.sum()), abs=1e-2)
        left_out = -found.topk(TOP).values.exp().sum(1).log().sum()
        assert reply.cut_nats == pytest.approx(float(left_out), abs=1e-2) and reply.cut_nats > 0.1


def test_a_tilts_own_ratios_and_what_is_left_out_make_up_its_distance_from_the_base(
    replies: list[Reply], logprobs: list[torch.Tensor]
) -> None:
    """log pi(reply) is log p(reply) and both of them: a policy on the likeliest tokens alone, and it adds up to 1."""
    _, tilted = replies
    assert all(tilted.log_ratios) and len(tilted.log_ratios) == len(tilted.token_ids)
    sampled = logprobs[1].gather(1, torch.tensor(tilted.token_ids)[:, None])[:, 0]
    own = sampled + torch.tensor(tilted.log_ratios) - logprobs[1].topk(TOP).values.exp().sum(1).log()
    assert (own < 1e-4).all(), "no probability is above 1"


def test_who_sampled_a_reply_makes_no_difference_to_reading_it(engine: RolloutEngine, replies: list[Reply]) -> None:
    found = engine.base_logprobs([(PROMPT, reply.token_ids) for reply in replies])
    assert found == pytest.approx([reply.base_logprob for reply in replies], abs=1e-2)
    assert engine.base_logprobs([(PROMPT[:2], replies[0].token_ids)]) != pytest.approx(found[:1], abs=1e-2)


def test_of_the_likeliest_tokens_alone_no_other_is_sampled(engine: RolloutEngine) -> None:
    def asked(top_k: int | None) -> list[Reply]:
        requests = [Request(f"cut-{seed}", PROMPT, 0, seed) for seed in range(4)]
        return engine.sample(requests, Limits(12, read_top=1, top_k=top_k))

    for reply in asked(1):
        assert reply.base_logprob == pytest.approx(-reply.cut_nats, abs=1e-4), "each token is the likeliest"
    assert any(reply.base_logprob < -reply.cut_nats - 1 for reply in asked(None))


def test_who_does_not_ask_is_told_nothing(engine: RolloutEngine) -> None:
    (reply,) = engine.sample([Request("plain", PROMPT, 0, 1)], Limits(4))
    assert (reply.base_logprob, reply.cut_nats) == (0.0, 0.0)
