"""How often a step waits for the device: a fixed number of times, whatever the number of rows and candidates."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import torch

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance, Scoring
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.loading import load_guide
from valuemodels.guide.step_record import SETTLE_STEPS
from valuemodels.scoring.rows import Row

WAITING = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero")


def count_waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, the names of the tensor methods that ask for a value, in this thread: others have other steps."""
    seen: list[str] = []
    here = get_ident()

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if get_ident() == here:
                seen.append(name)
            return method(self, *args, **kwargs)

        return counted

    for name in WAITING:
        monkeypatch.setattr(torch.Tensor, name, counting(name, getattr(torch.Tensor, name)))
    return seen


@pytest.mark.parametrize(
    ("scoring", "at_most"), [("fast", 1), ("exact", SETTLE_STEPS + 1), ("hybrid", SETTLE_STEPS + 1)]
)
def test_steps_wait_a_fixed_number_of_times(
    scoring: Scoring,
    at_most: int,
    tiny_base: str,
    tiny_probed_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `guide/value_guide.py` says of itself; a wait a row, or a step, would stall a GPU."""
    config = GuideConfig(checkpoints=(str(tiny_probed_checkpoint),), base_model=tiny_base)
    guide = load_guide(config, torch.device("cpu"), torch.float32)
    guidance = ResolvedGuidance((1.0, -0.5), 1.0, 8, 0.5, scoring, "values", (1.0, -0.5), (0.5, 0.0))
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
        with monkeypatch.context() as patch:
            seen = count_waits(patch)
            for _ in range(SETTLE_STEPS):
                step()
            waits[rows] = Counter(seen)
    assert waits[1] == waits[7] and waits[1].total() <= at_most
