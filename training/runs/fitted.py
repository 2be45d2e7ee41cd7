"""The values of a round, calibrated: later rounds are tilted by them, and they are what is judged.

Runs in any training process. Must not import torch or vllm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from valuemodels.contract.guidance import Guidance, Scoring


@dataclass(frozen=True, slots=True)
class FittedValues:
    """A round's values as its stages left them, and how strongly they tilt.

    Attributes:
        folder: of the checkpoint.
        units: objective -> the strength, in the scale that the checkpoint itself has, at which weight 1 costs
            `calibrate.target_kl`.
    """

    folder: Path
    scoring: Scoring
    units: Mapping[str, float]

    def guidance(self, weights: Mapping[str, float], candidates: int, label: str = "") -> Guidance:
        """What tilts by some weights, calibrated; `label` is what the generations' ids begin with."""
        strongest = max((self.units[name] for name in weights), default=1.0)
        return Guidance(
            generation_id=label,
            weights={name: weight * self.units[name] / strongest for name, weight in weights.items()},
            beta=strongest,
            candidates=candidates,
            scoring=self.scoring,
        )
