"""What the rows of a step ask for, as tensors: rewritten where a row changes, not every token. Imports torch alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valuemodels.contract.guidance import Scoring
from valuemodels.scoring.rows import Row
from valuemodels.tilting import sampling_temperature
from valuemodels.transfers import to_device


@dataclass(frozen=True, slots=True)
class RowSettings:
    """What the rows of a step ask for, in the rows' order.

    Attributes:
        index: [rows] the rows' places in the batch.
        free: [rows, objectives] strength times scale, of the part that a KL budget may lower.
        pinned: [rows, objectives] the same of the part that it may not; None where no row has any.
        coefficients: [rows, objectives] the sum of both.
        tilts: [rows] bool, False where a row only watches.
        temperature: [rows] > 0, at which the row is tilted.
        kl_budget: [rows] nats, inf = none; None where no row has one.
        least: [rows] how far a candidate's logit may lie below the largest, -inf = however far; None where that is so
            for all rows.
        counts: [rows] how many candidates, None where all want the same; width: the largest of them.
        gives_levels: [rows] bool, True where the values are expected final rewards.
        last_tokens: [rows] the token that ends each row's sequence.
        needed: [rows, objectives] bool, True where a row needs an objective's values.
        all_weigh: nothing in `free` is 0.
        places: scoring -> the rows that are scored so, by their place here.
        zeros, nobody: [rows] 0, and [rows] False.
    """

    index: Tensor
    free: Tensor
    pinned: Tensor | None
    coefficients: Tensor
    tilts: Tensor
    temperature: Tensor
    kl_budget: Tensor | None
    least: Tensor | None
    counts: Tensor | None
    width: int
    gives_levels: Tensor
    last_tokens: Tensor
    needed: Tensor
    all_weigh: bool
    places: Mapping[Scoring, Sequence[int]]
    zeros: Tensor
    nobody: Tensor


class SettingsOfRows:
    """Tables with a line for every row (`Row.kept_at`), in which only the lines of changed rows are written.

    Two copies to the device carry all that has changed in a step, whatever it is; a step in which nothing changes gets
    the same `RowSettings` again.
    """

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
        self._objectives = len(next(iter(scales.values())))
        self._written: dict[int, Row] = {}
        self._lines: dict[int, list[float]] = {}
        self._numbers = torch.empty(0, 2 * self._objectives + 5, device=device)
        self._counts = torch.empty(0, 2, dtype=torch.int64, device=device)
        self._order: list[tuple[int, int]] = []
        self._settings: RowSettings | None = None

    def of(self, rows: Sequence[Row]) -> RowSettings:
        """The settings of a step's rows."""
        changed = [row for row in rows if not _asks_for_the_same(self._written.get(row.kept_at), row)]
        order = [(row.index, row.kept_at) for row in rows]
        if changed:
            self._write(changed)
        if self._settings is None or changed or order != self._order:
            self._settings, self._order = self._read(rows, order), order
        return self._settings

    def _write(self, rows: Sequence[Row]) -> None:
        self._make_room(1 + max(row.kept_at for row in rows))
        index = to_device([row.kept_at for row in rows], self._device)
        self._lines.update((row.kept_at, self._line(row)) for row in rows)
        self._numbers[index] = to_device([self._lines[row.kept_at] for row in rows], self._device, torch.float32)
        self._counts[index] = to_device([[row.guidance.candidates, row.last_token] for row in rows], self._device)
        # The row itself, so that its guidance stays alive: only so is an identity its own.
        self._written.update((row.kept_at, row) for row in rows)

    def _line(self, row: Row) -> list[float]:
        asked = row.guidance
        scales = self._scales[asked.scoring]
        free = [(s - pin) * scale for s, pin, scale in zip(asked.strengths, asked.pins, scales, strict=True)]
        pinned = [pin * scale for pin, scale in zip(asked.pins, scales, strict=True)]
        budget = torch.inf if asked.kl_budget is None else asked.kl_budget
        least = math.log(asked.candidate_min_p) if asked.candidate_min_p else -math.inf
        return [*free, *pinned, row.temperature, budget, not asked.is_plain, self._levels[asked.scoring], least]

    def _make_room(self, lines: int) -> None:
        if (missing := lines - self._numbers.shape[0]) > 0:
            more = max(missing, self._numbers.shape[0])
            self._numbers = torch.cat([self._numbers, self._numbers.new_zeros(more, self._numbers.shape[1])])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(more, self._counts.shape[1])])

    def _read(self, rows: Sequence[Row], order: Sequence[tuple[int, int]]) -> RowSettings:
        places: dict[Scoring, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row.guidance.scoring, []).append(place)
        index, lines = to_device(order, self._device).unbind(1)
        numbers, counts = self._numbers[lines], self._counts[lines]
        free, pinned, rest = torch.split(numbers, [self._objectives, self._objectives, 5], dim=1)
        tilts = rest[:, 2] != 0
        temperature = sampling_temperature(rest[:, 0])
        wanted = {row.guidance.candidates for row in rows}
        return RowSettings(
            index=index,
            free=free,
            pinned=pinned if any(any(row.guidance.pins) for row in rows) else None,
            coefficients=free + pinned,
            tilts=tilts,
            temperature=temperature,
            kl_budget=rest[:, 1] if any(row.guidance.kl_budget is not None for row in rows) else None,
            least=rest[:, 4] * temperature if any(row.guidance.candidate_min_p for row in rows) else None,
            counts=counts[:, 0] if len(wanted) > 1 else None,
            width=max(wanted),
            gives_levels=rest[:, 3] != 0,
            last_tokens=counts[:, 1],
            needed=(free != 0) | (pinned != 0) | ~tilts[:, None],
            all_weigh=all(0.0 not in self._lines[line][: self._objectives] for _, line in order),
            places=dict(sorted(places.items())),
            zeros=torch.zeros_like(temperature),
            nobody=torch.zeros_like(tilts),
        )


def _asks_for_the_same(before: Row | None, now: Row) -> bool:
    """Whether a row stands where another stood and asks for what that asked, whoever they are."""
    return before is now or (
        before is not None
        and before.guidance is now.guidance
        and before.temperature == now.temperature
        and before.last_token == now.last_token
    )
