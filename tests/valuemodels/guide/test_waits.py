"""How often a step waits for the device: never on a GPU; elsewhere once where candidates are read."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.valuemodels.waits import counted_waits
from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance, Scoring
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.loading import load_guide
from valuemodels.guide.step_record import SETTLE_STEPS
from valuemodels.scoring.padded import PaddedStep
from valuemodels.scoring.rows import Row


@pytest.mark.parametrize(
    ("scoring", "is_padded", "a_step"),
    [("fast", False, 0), ("exact", True, 0), ("hybrid", True, 0), ("exact", False, 1), ("hybrid", False, 1)],
)
def test_steps_wait_a_fixed_number_of_times(
    scoring: Scoring, is_padded: bool, a_step: int, tiny_base: str, tiny_probed_checkpoint: Path
) -> None:
    """What `guide/value_guide.py` says of itself; a wait a row, or a step, would stall a GPU."""
    config = GuideConfig(checkpoints=(str(tiny_probed_checkpoint),), base_model=tiny_base)
    guide = load_guide(config, torch.device("cpu"), torch.float32)
    if is_padded:  # as on a GPU
        for reader in guide._readers:
            reader._padded = PaddedStep(reader.model, reader.cache)
    guidance = ResolvedGuidance((1.0, -0.5), 1.0, 8, 0.5, scoring, "candidates", (1.0, -0.5), (0.5, 0.0))
    waits = {}
    for rows in (1, 7):
        outputs: list[list[int]] = [[] for _ in range(rows)]

        def step(rows: int = rows, outputs: list[list[int]] = outputs) -> None:
            names = [f"{rows}-{r}" for r in range(rows)]
            asked = [
                Row(r, name, name, ChoiceName(0, 0), guidance, 1.0, [1, 2, 3], outputs[r])
                for r, name in enumerate(names)
            ]
            guide.step(torch.randn(rows, 64), asked, torch.randn(rows, 32))
            for output in outputs:
                output.append(5)

        step()
        with counted_waits() as seen:
            for _ in range(SETTLE_STEPS):
                step()
        waits[rows] = Counter(seen)
    assert waits[1] == waits[7] and waits[1].total() == a_step * SETTLE_STEPS
