"""Packing and padding: nothing is lost, nothing is doubled, nothing padded is learned from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fit.dataset import PAD_ID, BatchDataset, Example, collate, pack


@st.composite
def example(draw: st.DrawFn) -> Example:
    tokens = draw(st.lists(st.integers(1, 99), min_size=1, max_size=30))
    return Example(tuple(tokens), draw(st.integers(1, len(tokens))), (draw(st.floats(-5, 5)), draw(st.floats(-5, 5))))


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
        assert batch["loss_mask"][row].sum() == length - each.prompt_length + 1
        assert not batch["loss_mask"][row, length:].any()


@given(st.lists(example(), min_size=1, max_size=8))
def test_targets_are_the_rewards_where_there_is_a_loss(examples: list[Example]) -> None:
    batch = collate(examples)
    for row, each in enumerate(examples):
        expected = torch.tensor(each.rewards).expand(int(batch["loss_mask"][row].sum()), 2)
        torch.testing.assert_close(batch["targets"][row][batch["loss_mask"][row]], expected)


def test_equally_long_replies_to_one_prompt_are_spread_over_batches() -> None:
    examples = [Example((prompt, *range(9)), 1, (0.0,)) for prompt in range(8) for _ in range(8)]
    prompts_a_batch = [len({each.token_ids[0] for each in batch}) for batch in pack(examples, 80, seed=1)]
    assert sum(prompts_a_batch) / len(prompts_a_batch) > 4


def test_dataset_items_are_whole_batches() -> None:
    examples = [Example(tuple(range(1, n + 2)), 1, (0.0,)) for n in range(10)]
    dataset = BatchDataset(examples, 20)
    assert sum(len(dataset[index]["input_ids"]) for index in range(len(dataset))) == 10


@pytest.mark.parametrize("prompt_length", [0, 4])
def test_example_whose_prompt_does_not_fit_is_refused(prompt_length: int) -> None:
    with pytest.raises(ValueError, match=f"got {prompt_length}, allowed is 1 to 3"):
        Example((1, 2, 3), prompt_length, (0.0,))
