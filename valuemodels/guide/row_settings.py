"""What the rows of a step ask for, as tensors: made when something changes, not at every token. Imports torch alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valuemodels.contract.guidance import Scoring
from valuemodels.scoring.rows import Row


@dataclass(frozen=True, slots=True)
class RowSettings:
    """What the rows of a step ask for, in the rows' order.

    Attributes:
        index: [rows] the rows' places in the batch.
        free: [rows, objectives] strength times scale, of the part that a KL budget may lower.
        pinned: [rows, objectives] the same of the part that it may not; None where no row has any.
        tilts: [rows] bool, False where a row only watches.
        temperature: [rows], 0 = greedy.
        kl_budget: [rows] nats, inf = none; None where no row has one.
        counts: [rows] how many candidates; width: the largest of them.
        gives_levels: [rows] bool, True where the values are expected final rewards.
        last_tokens: [rows] the token that ends each row's sequence.
        places: scoring -> the rows that are scored so, by their place here.
    """

    index: Tensor
    free: Tensor
    pinned: Tensor | None
    tilts: Tensor
    temperature: Tensor
    kl_budget: Tensor | None
    counts: Tensor
    width: int
    gives_levels: Tensor
    last_tokens: Tensor
    places: Mapping[Scoring, Sequence[int]]

    @property
    def needed(self) -> Tensor:
        """[rows, objectives] bool, True where a row needs an objective's values."""
        tilted = self.free != 0 if self.pinned is None else (self.free != 0) | (self.pinned != 0)
        return tilted | ~self.tilts[:, None]


class SettingsOfRows:
    """Makes `RowSettings`, and gives the last ones again while the same rows ask for the same."""

    def __init__(
        self, scales: Mapping[Scoring, Sequence[float]], levels: Mapping[Scoring, bool], device: torch.device
    ) -> None:
        """
        Args:
            scales: of every scoring, s_i of each objective; levels: whether its values are expected final rewards.
        """
        self._scales = scales
        self._levels = levels
        self._device = device
        self._rows: Sequence[Row] = ()
        self._settings: RowSettings | None = None

    def of(self, rows: Sequence[Row]) -> RowSettings:
        """The settings of a step's rows."""
        if self._settings is None or not _ask_for_the_same(self._rows, rows):
            self._settings = self._made(rows)
        # The newest rows, whose guidance thereby stays alive: only so is its identity its own.
        self._rows = rows
        return self._settings

    def _made(self, rows: Sequence[Row]) -> RowSettings:
        asked = [row.guidance for row in rows]
        budgets = [torch.inf if g.kl_budget is None else g.kl_budget for g in asked]
        scales = self._numbers([self._scales[g.scoring] for g in asked])
        free = [[strength - pin for strength, pin in zip(g.strengths, g.pins, strict=True)] for g in asked]
        counts = [g.candidates for g in asked]
        places: dict[Scoring, list[int]] = {}
        for place, guidance in enumerate(asked):
            places.setdefault(guidance.scoring, []).append(place)
        return RowSettings(
            index=torch.tensor([row.index for row in rows], device=self._device),
            free=self._numbers(free) * scales,
            pinned=self._numbers([g.pins for g in asked]) * scales if any(any(g.pins) for g in asked) else None,
            tilts=torch.tensor([not g.is_plain for g in asked], device=self._device),
            temperature=self._numbers([row.temperature for row in rows]),
            kl_budget=self._numbers(budgets) if any(g.kl_budget is not None for g in asked) else None,
            counts=torch.tensor(counts, device=self._device),
            width=max(counts),
            gives_levels=torch.tensor([self._levels[g.scoring] for g in asked], device=self._device),
            last_tokens=torch.tensor([row.last_token for row in rows], device=self._device),
            places=dict(sorted(places.items())),
        )

    def _numbers(self, numbers: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=self._device)


def _ask_for_the_same(before: Sequence[Row], now: Sequence[Row]) -> bool:
    """Whether rows stand where others stood and ask for what those asked, whoever they are."""
    return len(before) == len(now) and all(
        old.guidance is new.guidance
        and old.index == new.index
        and old.temperature == new.temperature
        and old.last_token == new.last_token
        for old, new in zip(before, now, strict=True)
    )
