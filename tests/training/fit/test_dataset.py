"""Packing and padding: nothing is lost, nothing is doubled, nothing padded is learned from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fit.dataset import PAD_ID, BatchDataset, Example, collate, pack
from training.fit.targets import PathTargets


def learned(positions: int, seed: int = 0) -> PathTargets:
    dice = torch.Generator().manual_seed(seed)
    return PathTargets(torch.randn(positions, 2, generator=dice), torch.rand(positions, generator=dice) < 0.7)


@st.composite
def example(draw: st.DrawFn) -> Example:
    tokens = draw(st.lists(st.integers(1, 99), min_size=1, max_size=30))
    prompt_length = draw(st.integers(1, len(tokens)))
    return Example(tuple(tokens), prompt_length, learned(len(tokens) - prompt_length + 1, draw(st.integers(0, 99))))


EXAMPLES = st.lists(example(), min_size=1, max_size=40)


@given(EXAMPLES, st.integers(1, 200), st.integers(0, 5))
def test_every_example_is_packed_exactly_once(examples: list[Example], batch_tokens: int, seed: int) -> None:
    packed = [id(each) for batch in pack(examples, batch_tokens, seed) for each in batch]
    assert sorted(packed) == sorted(id(each) for each in examples)


@given(EXAMPLES, st.integers(1, 200))
def test_batches_keep_to_their_tokens_with_padding_unless_one_example_is_longer(
    examples: list[Example], batch_tokens: int
) -> None:
    for batch in pack(examples, batch_tokens):
        width = max(len(each.token_ids) for each in batch)
        assert len(batch) * width <= batch_tokens or len(batch) == 1


@given(EXAMPLES, st.integers(1, 200), st.integers(0, 5))
def test_packing_is_the_same_for_the_same_seed(examples: list[Example], batch_tokens: int, seed: int) -> None:
    assert pack(examples, batch_tokens, seed) == pack(examples, batch_tokens, seed)


@given(st.lists(example(), min_size=1, max_size=8))
def test_padding_stands_on_the_right_and_carries_neither_attention_nor_loss(examples: list[Example]) -> None:
    batch = collate(examples)
    for row, each in enumerate(examples):
        length = len(each.token_ids)
        assert tuple(batch["input_ids"][row, :length].tolist()) == each.token_ids
        assert (batch["input_ids"][row, length:] == PAD_ID).all()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        reply = slice(each.prompt_length - 1, length)
        assert torch.equal(batch["loss_mask"][row, reply], each.learned.counts[:, None].expand(-1, 2))
        assert batch["loss_mask"][row].sum() == 2 * each.learned.counts.sum()


@given(st.lists(example(), min_size=1, max_size=8))
def test_targets_stand_at_the_reply(examples: list[Example]) -> None:
    batch = collate(examples)
    for row, each in enumerate(examples):
        reply = slice(each.prompt_length - 1, len(each.token_ids))
        assert torch.equal(batch["targets"][row, reply], each.learned.targets)


def test_equally_long_replies_to_one_prompt_are_spread_over_batches() -> None:
    examples = [Example((prompt, *range(9)), 1, learned(10)) for prompt in range(8) for _ in range(8)]
    prompts_a_batch = [len({each.token_ids[0] for each in batch}) for batch in pack(examples, 80, seed=1)]
    assert sum(prompts_a_batch) / len(prompts_a_batch) > 4


def test_dataset_items_are_whole_batches() -> None:
    examples = [Example(tuple(range(1, n + 2)), 1, learned(n + 1)) for n in range(10)]
    dataset = BatchDataset(examples, 20)
    assert sum(len(dataset[index]["input_ids"]) for index in range(len(dataset))) == 10


@pytest.mark.parametrize("prompt_length", [0, 4])
def test_example_whose_prompt_does_not_fit_is_refused(prompt_length: int) -> None:
    with pytest.raises(ValueError, match=f"got {prompt_length}, allowed is 1 to 3"):
        Example((1, 2, 3), prompt_length, learned(3))


def test_example_with_too_few_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 targets, allowed are 3"):
        Example((1, 2, 3), 1, learned(2))
