"""Fitting a probe, to values that a probe can have and to values that nothing can predict."""

import pytest
import torch

from tests.training.recorded import NAMES, as_data, new_probe, random_embeddings, random_positions
from training.distill.fit import train_probe
from training.distill.held_out import predict, probe_advantages, probe_metrics
from training.distill.positions import PositionData
from training.recipe import DistillRecipe
from valuemodels.models.probe import Probe

RECIPE = DistillRecipe(epochs=12, learning_rate=1e-2, batch_size=128, weight_decay=0.0)
SCALES = dict.fromkeys(NAMES, 3.0)
EMBEDDINGS = random_embeddings()


def splits(teacher: Probe | None) -> tuple[PositionData, PositionData, PositionData]:
    columns = (random_positions(count, teacher, EMBEDDINGS, seed) for seed, count in enumerate((3000, 400, 400)))
    train, validation, test = map(as_data, columns)
    return train, validation, test


def test_probe_recovers_the_values_of_a_probe() -> None:
    train, validation, test = splits(new_probe(seed=9))
    probe = new_probe()
    losses = train_probe(probe, EMBEDDINGS, train, validation, RECIPE, seed=0)
    metrics, starts = probe_metrics(probe, EMBEDDINGS, {"validation": validation, "test": test}, SCALES)
    assert losses[-1] < 0.5 * losses[0]
    for name in NAMES:
        assert metrics[name]["test_explained_variance"] > 0.95
        assert metrics[name]["test_gain_kept"] > 0.98
        assert metrics[name]["test_tilt_kl"] < 0.05
        assert starts[name] == pytest.approx(3.0, rel=0.1)


def test_noise_teaches_nothing_and_breaks_nothing() -> None:
    train, validation, test = splits(None)
    probe = new_probe()
    losses = train_probe(probe, EMBEDDINGS, train, validation, RECIPE.model_copy(update={"epochs": 3}), seed=0)
    metrics, starts = probe_metrics(probe, EMBEDDINGS, {"validation": validation, "test": test}, SCALES)
    assert all(loss > 0.95 for loss in losses)
    for name in NAMES:
        assert -0.3 < metrics[name]["test_explained_variance"] < 0.05
        assert abs(metrics[name]["test_gain_kept"]) < 0.2
        assert 3.0 / 8 <= starts[name] <= 3.0 * 8


def test_weights_of_the_best_epoch_are_kept() -> None:
    """Would catch handing on the last epoch of a fit that has begun to learn its training positions by heart."""
    dice = torch.Generator().manual_seed(5)
    columns = random_positions(200, new_probe(seed=9), EMBEDDINGS)
    columns["values"] += 2 * torch.randn(columns["values"].shape, generator=dice)
    train, validation = as_data(columns), splits(new_probe(seed=9))[1]
    recipe = RECIPE.model_copy(update={"epochs": 30, "learning_rate": 3e-2, "batch_size": 50})
    probe = new_probe()
    losses = train_probe(probe, EMBEDDINGS, train, validation, recipe, seed=0)
    assert min(losses) < losses[-1]
    kept = train_probe(
        probe, EMBEDDINGS, train, validation, recipe.model_copy(update={"epochs": 1, "learning_rate": 1e-12}), 0
    )
    assert kept[0] == pytest.approx(min(losses), rel=1e-4)


def test_repeated_fit_gives_the_same_weights() -> None:
    train, validation, _ = splits(new_probe(seed=9))
    probes = [new_probe(), new_probe()]
    for probe in probes:
        train_probe(probe, EMBEDDINGS, train, validation, RECIPE.model_copy(update={"epochs": 1}), seed=4)
    for name, tensor in probes[0].state_dict().items():
        torch.testing.assert_close(probes[1].state_dict()[name], tensor, atol=1e-6, rtol=0)


def test_objective_whose_values_never_vary_does_not_spoil_the_other() -> None:
    train, validation, test = splits(new_probe(seed=9))
    for data in (train, validation, test):
        data.advantages[..., 1] = 0.0
    probe = new_probe()
    losses = train_probe(probe, EMBEDDINGS, train, validation, RECIPE, seed=0)
    metrics, _ = probe_metrics(probe, EMBEDDINGS, {"validation": validation, "test": test}, SCALES)
    assert all(loss == loss for loss in losses)
    assert metrics["warmth"]["test_explained_variance"] > 0.9
    assert "test_explained_variance" not in metrics["brevity"] and "test_gain_kept" not in metrics["brevity"]


def test_values_are_those_of_serving_but_for_their_level() -> None:
    _, _, data = splits(new_probe(seed=9))
    probe = new_probe()
    served = probe(data.hidden, probe.token(EMBEDDINGS)[data.token_ids.long()], data.token_ids.long())
    found = probe_advantages(probe, EMBEDDINGS, data)
    shift = served - found
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-4, rtol=1e-4)
    expectation = torch.einsum("pkn,pk->pn", found, data.base_logprobs.exp())
    torch.testing.assert_close(expectation, torch.zeros_like(expectation), atol=1e-5, rtol=0)


def test_absent_candidates_have_no_say() -> None:
    data = splits(new_probe(seed=9))[2]
    base = data.base_logprobs.clone()
    base[::2, -3:] = float("-inf")
    base = base.log_softmax(-1)
    other_tokens = data.token_ids.clone()
    other_tokens[::2, -3:] = 0
    probe = new_probe()
    found, again = (
        predict(probe, EMBEDDINGS, PositionData(data.hidden, token_ids, base, data.advantages))
        for token_ids in (data.token_ids, other_tokens)
    )
    assert torch.equal(found, again) and (found[::2, -3:] == 0).all()


def test_batches_hold_every_position_once() -> None:
    data = splits(None)[1]
    parts = list(data.batches(150, torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [150, 150, 100]
    found = torch.cat([part.base_logprobs for part in parts])
    assert not torch.equal(found, data.base_logprobs)
    assert sorted(found[:, 0].tolist()) == sorted(data.base_logprobs[:, 0].tolist())
