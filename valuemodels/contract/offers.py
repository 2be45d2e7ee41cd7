"""What several value checkpoints offer together: which objectives, scored in which ways. No torch."""

from collections.abc import Sequence
from typing import get_args

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.value_config import ValueConfig


def offered_scorings(configs: Sequence[ValueConfig]) -> tuple[Scoring, ...]:
    """The scorings that every checkpoint can do: a request's objectives are all valued in one way.

    Raises:
        CheckpointError: there is none.
    """
    everywhere = set.intersection(*(set(config.scorings) for config in configs))
    if not everywhere:
        offers = ", ".join(f"{config.id} offers {' and '.join(config.scorings)}" for config in configs)
        raise CheckpointError(f"the value checkpoints have no way of scoring in common ({offers}); serve them apart")
    return tuple(scoring for scoring in get_args(Scoring) if scoring in everywhere)


def objective_owners(configs: Sequence[ValueConfig]) -> dict[str, ValueConfig]:
    """Which checkpoint offers which objective: name -> config, in order.

    Raises:
        CheckpointError: two of them offer the same objective.
    """
    owners: dict[str, ValueConfig] = {}
    for config in configs:
        for name in config.names:
            if name in owners:
                both = f"{owners[name].id} and {config.id}"
                raise CheckpointError(f"objective {name} is in both value checkpoints, {both}; serve only one of them")
            owners[name] = config
    return owners
