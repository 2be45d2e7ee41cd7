"""What several checkpoints' configs say together."""

from collections.abc import Callable

import pytest

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.offers import objective_owners
from valuemodels.contract.value_config import ObjectiveConfig, ValueConfig

Make = Callable[..., ValueConfig]


def of(make: Make, checkpoint: str, *names: str) -> ValueConfig:
    objectives = tuple(
        ObjectiveConfig(name=name, description=name, reward=name, mean=0.0, std=1.0, scale=1.0) for name in names
    )
    return make(id=checkpoint, objectives=objectives)


def test_objectives_keep_the_checkpoints_order(tiny_config: Make) -> None:
    first, second = of(tiny_config, "first", "warmth", "brevity"), of(tiny_config, "second", "accuracy")
    owners = objective_owners([first, second])
    assert list(owners.items()) == [("warmth", first), ("brevity", first), ("accuracy", second)]


def test_two_checkpoints_that_name_one_objective_are_refused(tiny_config: Make) -> None:
    first, second = of(tiny_config, "first", "warmth", "brevity"), of(tiny_config, "second", "brevity")
    with pytest.raises(CheckpointError, match=r"^objective brevity is in both value checkpoints, first and second; "):
        objective_owners([first, second])
    with pytest.raises(CheckpointError, match="warmth is in both value checkpoints, first and first"):
        objective_owners([first, first])
