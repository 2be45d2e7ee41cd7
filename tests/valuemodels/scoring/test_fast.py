"""Fast scoring equals its formula, needs hidden states, and the checkpoint refuses probes that do not fit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from tests.conftest import TINY_VOCAB
from tests.valuemodels.scoring.kit import scoring_batch
from valuemodels.adapters.hidden_states import HiddenStates
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import TENSORS_FILE, read_value_config
from valuemodels.models.check import main
from valuemodels.models.checkpoint import load_probe, load_value_model
from valuemodels.scoring.exact import ExactScorer
from valuemodels.scoring.fast import FastScorer
from valuemodels.scoring.scorer import ScoringBatch
from valuemodels.tilting import select_candidates


@pytest.fixture
def scorer(tiny_base: str, tiny_probed_checkpoint: Path) -> FastScorer:
    config = read_value_config(tiny_probed_checkpoint)
    assert config.probe is not None
    return FastScorer(config, config.probe, *load_probe(tiny_probed_checkpoint, tiny_base, device="cpu"))


def batch(hidden: torch.Tensor | None, rows: int = 3, k: int = 5) -> ScoringBatch:
    logits = torch.randn(rows, TINY_VOCAB, generator=torch.Generator().manual_seed(0))
    return scoring_batch(select_candidates(logits, torch.full((rows,), k), k, 64), hidden)


def test_values_are_those_of_the_formula(scorer: ExactScorer, tiny_base: str, tiny_probed_checkpoint: Path) -> None:
    """Catches a table of the wrong embeddings, a missing scale, or objectives in the wrong order."""
    asked = batch(torch.randn(3, 32))
    tensors = {
        k.removeprefix("probe."): t.double() for k, t in load_file(tiny_probed_checkpoint / TENSORS_FILE).items()
    }
    embeddings = AutoModelForCausalLM.from_pretrained(tiny_base).get_input_embeddings().weight.detach().double()
    embeddings /= embeddings.square().mean().sqrt()
    found = scorer.score(asked)
    assert found.shape == (3, 5, 2)
    assert asked.hidden is not None
    for r, h in enumerate(asked.hidden.double()):
        normal = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt() * tensors["norm.weight"] + tensors["norm.bias"]
        hidden = nn.functional.silu(tensors["state.0.weight"] @ normal + tensors["state.0.bias"])
        queries = (tensors["state.2.weight"] @ hidden + tensors["state.2.bias"]).reshape(2, -1)
        for c, token in enumerate(asked.candidates.token_ids[r].tolist()):
            features = tensors["token.weight"] @ embeddings[token]
            expected = queries @ features / queries.shape[1] ** 0.5 + tensors["bias"][token]
            torch.testing.assert_close(found[r, c].double(), expected, atol=1e-4, rtol=1e-4)


def test_without_hidden_states_it_says_so(scorer: ExactScorer) -> None:
    with pytest.raises(RuntimeError, match="hidden states"):
        scorer.score(batch(None))


def test_the_exact_part_loads_beside_a_probe_and_the_probe_beside_it(
    tiny_base: str, tiny_probed_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_value_model(tiny_probed_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    assert main([str(tiny_probed_checkpoint), "--base", tiny_base]) == 0


def test_a_checkpoint_without_a_probe_says_so(tiny_base: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="has no probe"):
        load_probe(tiny_checkpoint, tiny_base, device="cpu")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("probe.bias"), "lacks tensor probe.bias"),
        (lambda t: t.update({"probe.extra": torch.zeros(1)}), "holds tensor probe.extra"),
        (lambda t: t.update({"probe.bias": torch.zeros(3, 2)}), r"probe.bias has shape \[3, 2\]"),
        (lambda t: t["probe.token.weight"].fill_(torch.nan), "probe.token.weight holds NaN"),
    ],
)
def test_a_broken_probe_is_one_sentence(
    change: Any, sentence: Any, tiny_base: str, tiny_probed_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_probed_checkpoint, tmp_path / "broken")
    tensors = load_file(folder / TENSORS_FILE)
    change(tensors)
    save_file(tensors, folder / TENSORS_FILE)
    with pytest.raises(CheckpointError, match=sentence):
        load_probe(folder, tiny_base, device="cpu")
    assert main([str(folder), "--base", tiny_base]) == 2


class Model(nn.Module):
    """As vLLM's models are: `compute_logits` calls a module of this name."""

    class LogitsProcessor(nn.Module):
        def forward(self, lm_head: Any, hidden_states: Any, embedding_bias: Any = None) -> Any:
            return hidden_states @ lm_head

    def __init__(self) -> None:
        super().__init__()
        self.logits_processor = self.LogitsProcessor()

    def compute_logits(self, hidden_states: Any) -> Any:
        return self.logits_processor(torch.ones(4, 7), hidden_states)


def test_hidden_states_are_those_of_the_latest_logits() -> None:
    model = Model()
    states = HiddenStates(model)
    assert states.rows(2) is None
    first, second = torch.randn(2, 4), torch.randn(3, 4)
    model.compute_logits(first)
    assert states.rows(2) is first and states.rows(3) is None
    model.logits_processor(torch.ones(4, 7), hidden_states=second)
    assert states.rows(3) is second


def test_a_model_without_the_seam_is_refused() -> None:
    with pytest.raises(LookupError, match="logits_processor"):
        HiddenStates(nn.Linear(2, 2))
