"""Fitting a probe: to values that a probe can have, to advantages whose expectation is known, and to noise."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.training.recorded import NAMES, labels_by, new_probe, random_data, random_embeddings
from training.fast.fit import distil, train_on_advantages
from training.fast.held_out import Held, labelled_advantages, predict
from training.fast.labels import Labels
from training.fast.positions import PositionData
from training.fast.targets import explained_advantage
from training.fast_recipe import AdvantageRecipe, DistillRecipe
from valuemodels.tilting import advantages_of

DISTIL = DistillRecipe(epochs=12, learning_rate=1e-2, batch_size=128, weight_decay=0.0)
ADVANTAGES = AdvantageRecipe(epochs=8, learning_rate=1e-2, batch_size=128, weight_decay=0.0, teacher_weight=0.0)
EMBEDDINGS = random_embeddings()


def exact_advantages(data: PositionData) -> Tensor:
    return labels_by(new_probe(seed=9), EMBEDDINGS, data).advantages


def test_probe_recovers_the_values_of_a_probe() -> None:
    data, held = random_data(600, 5), random_data(80, 5, seed=2)
    labels = labels_by(new_probe(seed=9), EMBEDDINGS, data)
    probe = new_probe()
    losses = distil(probe, EMBEDDINGS, data, labels, DISTIL, seed=0)
    assert losses[-1] < 0.5 * losses[0]
    explained = explained_advantage(predict(probe, EMBEDDINGS, held), exact_advantages(held), held.base_logprobs.exp())
    assert (explained > 0.95).all()


def test_held_out_labels_are_not_fitted_to() -> None:
    data = random_data(40, 5, held_out=20)
    labels = labels_by(new_probe(seed=9), EMBEDDINGS, data)
    spoilt = Labels(labels.position, labels.candidates, labels.weights, labels.values.clone())
    spoilt.values[100:] = 1e6
    probes = [new_probe(), new_probe()]
    for probe, some in zip(probes, (labels, spoilt), strict=True):
        distil(probe, EMBEDDINGS, data, some, DISTIL.model_copy(update={"epochs": 1}), seed=0)
    for name, tensor in probes[0].state_dict().items():
        torch.testing.assert_close(probes[1].state_dict()[name], tensor)


def test_advantages_teach_their_expectation() -> None:
    """The sampled advantage is the true one and noise twice its size: the probe finds the true one."""
    data = random_data(3000, 5, held_out=300)
    true = exact_advantages(data)
    picked = true.gather(1, data.chosen[:, None, None].expand(-1, 1, len(NAMES)))[:, 0]
    noise = 2 * true.std() * torch.randn(picked.shape, generator=torch.Generator().manual_seed(4))
    probe = new_probe()
    train_on_advantages(probe, EMBEDDINGS, data, picked + noise, None, ADVANTAGES, seed=0)
    held = data.of_split("validation")
    explained = explained_advantage(predict(probe, EMBEDDINGS, held), exact_advantages(held), held.base_logprobs.exp())
    assert (explained > 0.3).all(), explained


def test_held_out_advantages_are_not_fitted_to() -> None:
    data = random_data(40, 5, held_out=20)
    advantages = torch.randn(200, len(NAMES), generator=torch.Generator().manual_seed(0))
    spoilt = torch.cat([advantages[:100], torch.full_like(advantages[100:], 1e6)])
    probes = [new_probe(), new_probe()]
    for probe, some in zip(probes, (advantages, spoilt), strict=True):
        train_on_advantages(probe, EMBEDDINGS, data, some, None, ADVANTAGES, seed=0)
    for name, tensor in probes[0].state_dict().items():
        torch.testing.assert_close(probes[1].state_dict()[name], tensor)


def test_tokens_that_are_no_candidates_teach_nothing() -> None:
    data = random_data(20, 5)
    data.chosen[:] = -1
    data.chosen[:3] = 0
    advantages = torch.zeros(100, len(NAMES))
    advantages[3:] = 1e6
    probe = new_probe()
    train_on_advantages(probe, EMBEDDINGS, data, advantages, None, ADVANTAGES, seed=0)
    assert predict(probe, EMBEDDINGS, data).abs().max() < 100


def test_a_teacher_holds_the_probe_where_there_is_no_reward() -> None:
    data = random_data(400, 5)
    labels = labels_by(new_probe(seed=9), EMBEDDINGS, data)
    kept, lost = new_probe(), new_probe()
    for probe, weight in ((kept, 10.0), (lost, 0.0)):
        distil(probe, EMBEDDINGS, data, labels, DISTIL, seed=0)
        recipe = ADVANTAGES.model_copy(update={"teacher_weight": weight})
        train_on_advantages(probe, EMBEDDINGS, data, torch.zeros(len(data), len(NAMES)), labels, recipe, seed=0)
    explained = [
        explained_advantage(predict(p, EMBEDDINGS, data), labels.advantages, labels.weights).min() for p in (kept, lost)
    ]
    assert explained[0] > 0.7 and explained[1] < 0.2


def test_objective_whose_values_never_vary_does_not_spoil_the_other() -> None:
    data = random_data(400, 5)
    labels = labels_by(new_probe(seed=9), EMBEDDINGS, data)
    labels.values[..., 1] = 0.0
    probe = new_probe()
    losses = distil(probe, EMBEDDINGS, data, labels, DISTIL, seed=0)
    assert all(loss == loss for loss in losses)
    found = explained_advantage(predict(probe, EMBEDDINGS, data), labels.advantages, labels.weights)
    assert found[0] > 0.9


def test_repeated_fits_give_the_same_weights() -> None:
    data = random_data(100, 5)
    advantages = torch.randn(500, len(NAMES), generator=torch.Generator().manual_seed(0))
    probes = [new_probe(), new_probe()]
    for probe in probes:
        train_on_advantages(probe, EMBEDDINGS, data, advantages, None, ADVANTAGES, seed=0)
    for name, tensor in probes[0].state_dict().items():
        torch.testing.assert_close(probes[1].state_dict()[name], tensor, atol=1e-6, rtol=0)


def test_values_are_those_of_serving_but_for_their_level() -> None:
    data, probe = random_data(40, 5), new_probe()
    token_ids = data.token_ids.long()
    with torch.no_grad():
        served = probe(data.hidden, probe.token(EMBEDDINGS)[token_ids], token_ids)
    expected = advantages_of(served, data.base_logprobs)
    torch.testing.assert_close(predict(probe, EMBEDDINGS, data), expected, atol=1e-4, rtol=1e-4)
    labels = labels_by(probe, EMBEDDINGS, data)
    with torch.no_grad():
        found = labelled_advantages(probe, EMBEDDINGS, data, labels)
    torch.testing.assert_close(found, labels.advantages, atol=1e-4, rtol=1e-4)


def test_absent_candidates_have_no_say() -> None:
    data, probe = random_data(40, 5), new_probe()
    base = data.base_logprobs.clone()
    base[::2, -3:] = float("-inf")
    base = base.log_softmax(-1)
    other_tokens = data.token_ids.clone()
    other_tokens[::2, -3:] = 0
    found, again = (
        predict(probe, EMBEDDINGS, dataclasses.replace(data, token_ids=token_ids, base_logprobs=base))
        for token_ids in (data.token_ids, other_tokens)
    )
    assert torch.equal(found, again) and (found[::2, -3:] == 0).all()


def test_validation_part_holds_its_own_labels() -> None:
    data = random_data(40, 5, held_out=10)
    labels = labels_by(new_probe(seed=9), EMBEDDINGS, data)
    held = Held.of(data, torch.arange(200.0)[:, None].expand(-1, len(NAMES)), labels)
    assert len(held.data) == 50 and held.advantages[:, 0].tolist() == pytest.approx(range(150, 200))
    assert held.labels is not None and held.labels.position.tolist() == list(range(50))
    assert torch.equal(held.labels.values, labels.values[150:])
