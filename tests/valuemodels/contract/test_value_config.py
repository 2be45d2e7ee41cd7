"""What a checkpoint's config allows, and what several say together."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import TINY_PROBE
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.offers import objective_owners, offered_scorings
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


def alone(make: Make, checkpoint: str = "alone") -> ValueConfig:
    """A probe alone."""
    objectives = tuple(
        ObjectiveConfig(name=name, description=name, reward=name, mean=0.0, std=1.0) for name in ("warmth", "brevity")
    )
    return make(
        id=checkpoint, format_version=3, objectives=objectives, backbone=None, head=None, probe=TINY_PROBE.model_dump()
    )


def test_a_probe_alone_offers_fast_scoring(tiny_config: Make) -> None:
    config = alone(tiny_config)
    assert config.scorings == ("fast",)
    with pytest.raises(CheckpointError, match="value checkpoint alone has no trunk, so it offers no exact scoring"):
        _ = config.trunk


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"head": None}, "backbone and head are given together"),
        ({"backbone": None, "head": None}, "has a backbone and a head, or a probe, or all of them"),
        ({"backbone": None, "head": None, "probe": TINY_PROBE.model_dump()}, "scale of objective warmth is given"),
    ],
)
def test_a_checkpoint_that_offers_nothing_or_half_is_refused(
    tiny_config: Make, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_config(**changes)


def test_a_trunk_needs_its_scales(tiny_config: Make) -> None:
    objectives = tuple(ObjectiveConfig(name="warmth", description="", reward="r", mean=0.0, std=1.0) for _ in range(1))
    with pytest.raises(ValueError, match="scale of objective warmth is given exactly when there is a backbone"):
        tiny_config(objectives=objectives)


def test_checkpoints_without_a_way_in_common_are_refused(tiny_config: Make) -> None:
    assert offered_scorings([alone(tiny_config), tiny_config(probe=TINY_PROBE.model_dump())]) == ("fast",)
    with pytest.raises(CheckpointError, match=r"in common \(alone offers fast, tiny offers exact\); serve them apart"):
        offered_scorings([alone(tiny_config), tiny_config()])
