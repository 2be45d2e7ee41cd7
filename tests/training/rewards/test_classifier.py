"""A reward model of a folder: its own output, whatever the batch, and what does not fit it is one sentence."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from training.errors import RewardError
from training.recipe import reward_id
from training.rewards.classifier import Classifier
from training.rewards.reward import load_reward
from training.runs.inputs import reward_inputs

PROMPTS, REPLIES = ["hello", "why", "a b c"], ["yes", "because of the long way home", "no"]


@pytest.fixture(scope="module")
def model(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier of three classes over the tiny tokenizer."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=3,
        pad_token_id=0,
        max_position_embeddings=256,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Path, text: str) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        found = LlamaForSequenceClassification.from_pretrained(model)(**tokenizer(text, return_tensors="pt")).logits[0]
    return torch.as_tensor(found)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_scores_are_the_models_output_whatever_the_batch(model: Path, batch_size: int) -> None:
    reward = Classifier(str(model), template="{prompt} {reply}", index=2, sign=-1, batch_size=batch_size)
    expected = [-logits(model, f"{p} {r}")[2].item() for p, r in zip(PROMPTS, REPLIES, strict=True)]
    assert reward(PROMPTS, REPLIES) == pytest.approx(expected, abs=1e-4)


def test_a_probability_is_among_all_classes(model: Path) -> None:
    reward = Classifier(str(model), template="{prompt} {reply}", index=1, output="probability")
    expected = [logits(model, f"{p} {r}").softmax(-1)[1].item() for p, r in zip(PROMPTS, REPLIES, strict=True)]
    assert reward(PROMPTS, REPLIES) == pytest.approx(expected, abs=1e-5)


def test_a_long_input_loses_its_beginning_and_keeps_the_reply(model: Path) -> None:
    reward = Classifier(str(model), template="{prompt}{reply}", max_length=8)
    long, short = reward(["x" * 50 + "abc", "abc"], ["defgh", "defgh"])
    assert long == pytest.approx(short, abs=1e-4)


def test_a_run_depends_on_the_models_content(model: Path) -> None:
    identifier = reward_id("classifier", {"model": str(model), "template": "{prompt}{reply}"})
    before = reward_inputs(identifier)
    (model / "more.json").write_text("{}")
    assert reward_inputs(identifier)["depends_on"] != before["depends_on"]
    assert len(load_reward(identifier)(PROMPTS, REPLIES)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": 3}, "index: got 3, allowed is 0 to 2"),
        ({"sign": 2}, "sign: got 2, allowed is 1 and -1"),
        ({"output": "loss"}, "output: got 'loss', allowed is logit and probability"),
        ({"template": "{prompt} only"}, "template: got '{prompt} only', allowed is chat, pair, or a text with"),
        ({"template": "{prompt}{reply}{more}"}, "template: got"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_does_not_fit_the_model_is_one_sentence(arguments: dict[str, Any], message: str, model: Path) -> None:
    with pytest.raises(RewardError, match=message):
        Classifier(str(model), **arguments)


def test_a_folder_without_such_a_model_is_one_sentence(tiny_base: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(RewardError, match="cannot be loaded"):
        Classifier(str(tmp_path))


def test_a_head_of_another_name_is_found_and_one_that_is_missing_is_refused(model: Path, tmp_path: Path) -> None:
    """Silently, transformers would make one up."""
    folder = tmp_path / "renamed"
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name.replace("score.", "score_head."): tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    template = "{prompt} {reply}"
    assert Classifier(str(folder), template=template, head="score_head")(PROMPTS, REPLIES) == pytest.approx(
        Classifier(str(model), template=template)(PROMPTS, REPLIES), abs=1e-5
    )
    with pytest.raises(RewardError, match=r"classifier: model: got .* allowed is one with score\.weight; see head"):
        Classifier(str(folder))


def test_an_instruction_is_kept_from_the_model(model: Path) -> None:
    template, told = "{reply} {prompt}", [f"Say it. {prompt}" for prompt in PROMPTS]
    alone = Classifier(str(model), template=template)
    kept = Classifier(str(model), template=template, without="Say it. ")
    assert kept(told, REPLIES) == alone(PROMPTS, REPLIES) != pytest.approx(alone(told, REPLIES))
