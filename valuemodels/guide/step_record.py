"""Scored steps of a batch, kept on the device until their tokens are told. Imports torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from valuemodels.contract.trace_wire import CandidateColumns
from valuemodels.tilting import NEG_INF, Tilt, advantages_of
from valuemodels.transfers import to_device

SETTLE_STEPS, SETTLE_ROWS = 64, 4096
"""When what waits is worked out: so few rows that they are small, so many steps that each costs next to nothing."""


class Backlog:
    """Says when what waits is to be worked out."""

    def __init__(self) -> None:
        self._steps = self._rows = 0

    def is_full(self, rows: int) -> bool:
        """Count in a step of so many rows; True where it is time, and the count begins anew."""
        self._steps, self._rows = self._steps + 1, self._rows + rows
        if self._steps < SETTLE_STEPS and self._rows < SETTLE_ROWS:
            return False
        self._steps = self._rows = 0
        return True


class TokenEntry(NamedTuple):
    """One sampled token. A tuple, for there are many and a frozen dataclass takes thrice as long to make.

    Attributes:
        kl: nats.
        log_ratio: log pi(token) / pi_ref(token), of the policy that sampled and of the base, on the candidates.
        dropped: the base's probability of the candidates that were left out.
        advantages: one an objective; None where the token was not among the scored candidates.
        levels: expected final rewards in the rewards' own units; None where scoring gives none.
        fell_back: the base's own logits were sampled from, since a value was no number.
        is_aborted: the sequence was ended for that reason.
    """

    kl: float = 0.0
    log_ratio: float = 0.0
    dropped: float = 0.0
    advantages: list[float] | None = None
    levels: list[float] | None = None
    fell_back: bool = False
    is_aborted: bool = False


@dataclass(frozen=True, eq=False)
class StepRecord:
    """One scored step of a batch, or some rows of several steps, one below the other.

    A step only puts down what it has at hand. What that means is worked out when it is asked for, of many steps at
    once.

    Attributes:
        token_ids: [rows, k] the candidates; logits: [rows, k] the base's, -inf where there is none.
        shift: [rows, k] what was added to their log-probabilities; temperature: [rows] > 0, at which.
        values: [rows, k, objectives] in standard deviations of the base's reward.
        needed: [rows, objectives] bool, the row needs that objective's values.
        dropped: [rows] the base's probability of candidates that were left out.
        is_sound: [rows] bool, the tilt is made of finite numbers.
        is_aborted: [rows] bool, the row was ended instead of falling back to the base.
        is_level: [rows] bool, the values are expected final rewards.
        means, stds: [objectives] of the base's reward.
    """

    token_ids: Tensor
    logits: Tensor
    shift: Tensor
    temperature: Tensor
    values: Tensor
    needed: Tensor
    dropped: Tensor
    is_sound: Tensor
    is_aborted: Tensor
    is_level: Tensor
    means: Tensor
    stds: Tensor

    @cached_property
    def tilt(self) -> Tilt:
        """What the step did to each row; of rows that fell back, what it would have done."""
        return Tilt(self.logits, self.shift, self.temperature, None)

    @cached_property
    def valid(self) -> Tensor:
        """[rows, k] bool, there is a candidate."""
        return self.logits > NEG_INF

    @cached_property
    def broken(self) -> Tensor:
        """[rows, objectives] bool: a value that the row needs is no finite number."""
        return broken(self.values, self.valid, self.needed)

    @cached_property
    def is_scored(self) -> Tensor:
        """[rows] bool, False where the row fell back to the base."""
        return self.is_sound & ~self.broken.any(1)

    @cached_property
    def gives_levels(self) -> Tensor:
        """[rows] bool, the values tell levels. A single candidate is not valued: there is nothing to choose."""
        return self.is_level & (self.valid.sum(1) > 1)

    def select(self, rows: Sequence[int]) -> "StepRecord":
        """Some rows, in this order."""
        if len(rows) == len(self.dropped) and all(place == row for place, row in enumerate(rows)):
            return self
        index = to_device(rows, self.dropped.device)
        return replace(self, **{name: getattr(self, name)[index] for name in _BY_ROW})

    def widened(self, k: int) -> "StepRecord":
        """The same with room for k candidates; absent ones fill it."""
        more = k - self.token_ids.shape[1]
        if not more:
            return self
        return replace(
            self,
            token_ids=functional.pad(self.token_ids, (0, more)),
            values=functional.pad(self.values, (0, 0, 0, more)),
            logits=functional.pad(self.logits, (0, more), value=NEG_INF),
            shift=functional.pad(self.shift, (0, more)),
        )

    def outcomes(self, token_ids: Sequence[int]) -> Tensor:
        """[rows, 7 + 2 objectives] float32: what the sampled token of every row did, for `entries_of`."""
        sampled = to_device(token_ids, self.dropped.device)
        hit = (self.token_ids == sampled[:, None]) & self.valid
        objectives = self.values.shape[-1]
        at = hit.to(torch.uint8).argmax(1)[:, None]
        place = at[..., None].expand(-1, 1, objectives)
        advantages = advantages_of(self.values, self.tilt.base_logprobs).gather(1, place)[:, 0]
        levels = self.values.gather(1, place)[:, 0] * self.stds + self.means
        kl, known = torch.where(self.is_scored, self.tilt.kl, 0.0), self.is_scored & hit.any(1)
        log_ratios = (self.tilt.logprobs - self.tilt.base_logprobs).gather(1, at)[:, 0]
        flags = torch.stack([known, known & self.gives_levels, ~self.is_scored, self.is_aborted], dim=1)
        numbers = torch.stack([kl, self.dropped, torch.where(known, log_ratios, 0.0)], dim=1)
        return torch.cat([numbers, flags.float(), advantages, levels], dim=1)

    def candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every candidate of every row, none where a row fell back, for `columns_of`.

        Returns:
            [rows] how many, [rows, k] int32 ids, [rows, k, 2 + objectives] float32.
        """
        base = self.tilt.base_logprobs
        parts = [base[..., None], self.tilt.logprobs[..., None], advantages_of(self.values, base)]
        return self.valid.sum(1) * self.is_scored, self.token_ids.int(), torch.cat(parts, dim=-1).float()


_BY_ROW = (
    "token_ids",
    "logits",
    "shift",
    "temperature",
    "values",
    "needed",
    "dropped",
    "is_sound",
    "is_aborted",
    "is_level",
)


def entries_of(outcomes: Tensor) -> list[TokenEntry]:
    """Of `StepRecord.outcomes`, on the host."""
    objectives = (outcomes.shape[1] - 7) // 2
    return [
        TokenEntry(
            kl,
            log_ratio,
            dropped,
            told[:objectives] if is_known else None,
            told[objectives:] if is_level else None,
            bool(fell_back),
            bool(is_aborted),
        )
        for kl, dropped, log_ratio, is_known, is_level, fell_back, is_aborted, *told in outcomes.tolist()
    ]


def columns_of(counts: Tensor, token_ids: Tensor, numbers: Tensor) -> list[CandidateColumns]:
    """Of `StepRecord.candidates`, on the host."""
    ids, floats = token_ids.numpy(), numbers.numpy()
    return [CandidateColumns(ids[r, :n].tobytes(), floats[r, :n].tobytes()) for r, n in enumerate(counts.tolist())]


def broken(values: Tensor, valid: Tensor, needed: Tensor) -> Tensor:
    """[rows, objectives] bool: a value that the row needs is no finite number.

    Args:
        values: [rows, k, objectives]; valid: [rows, k] bool, there is a candidate; needed: [rows, objectives] bool.
    """
    return (~values.isfinite() & valid[..., None]).any(1) & needed


def join(records: Sequence[StepRecord]) -> StepRecord:
    """One below the other, of the same objectives; the narrow ones are widened."""
    if len(records) == 1:
        return records[0]
    k = max(record.token_ids.shape[1] for record in records)
    wide = [record.widened(k) for record in records]
    return replace(wide[0], **{name: torch.cat([getattr(each, name) for each in wide]) for name in _BY_ROW})
