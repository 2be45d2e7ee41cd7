"""Counts rows that fell back to the base because a value was no number, without waiting for the device.

The counts stay on the device until somebody asks, and are taken of several steps at once. Imports torch alone.
"""

import logging
from collections.abc import Sequence

import torch

from valuemodels.contract.throttle import Throttle, left_out
from valuemodels.guide.step_record import Backlog, StepRecord, join

logger = logging.getLogger("vllm.mavis")


class Fallbacks:
    """Rows that fell back since the start, and the objectives whose values were to blame."""

    def __init__(self, objectives: Sequence[str], device: torch.device) -> None:
        self._objectives = list(objectives)
        self._rows = torch.zeros((), dtype=torch.int64, device=device)
        self._to_blame = torch.zeros(len(objectives), dtype=torch.int64, device=device)
        self._waiting: list[StepRecord] = []
        self._backlog = Backlog()
        self._known = 0
        self._throttle = Throttle(burst=5, interval_s=10.0)

    def note(self, step: StepRecord) -> None:
        """Count in a step."""
        self._waiting.append(step)
        if self._backlog.is_full(len(step.dropped)):
            self._take()

    def count(self) -> int:
        """How many rows have fallen back; warns of those that are new."""
        self._take()
        rows = int(self._rows)
        if rows > self._known and (held_back := self._throttle.admit()) is not None:
            names = [name for name, times in zip(self._objectives, self._to_blame.tolist(), strict=True) if times]
            new = rows - self._known
            logger.warning("values of %s are not finite: %d rows fell back%s", names, new, left_out(held_back))
            self._to_blame.zero_()
            self._known = rows
        return rows

    def _take(self) -> None:
        if self._waiting:
            steps = join(self._waiting)
            self._rows += (~steps.is_scored).sum()
            self._to_blame += steps.broken.sum(0)
            self._waiting = []
