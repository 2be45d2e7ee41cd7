"""Scored steps of a batch, kept on the device until their tokens are told. Imports torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from valuemodels.contract.trace_wire import CandidateColumns
from valuemodels.tilting import advantages_of


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One sampled token.

    Attributes:
        kl: nats.
        dropped: the base's probability of the candidates that were left out.
        advantages: one an objective; None where the token was not among the scored candidates.
        levels: expected final rewards in the rewards' own units; None where scoring gives none.
        fell_back: the base's own logits were sampled from, since a value was no number.
        is_aborted: the sequence was ended for that reason.
    """

    kl: float = 0.0
    dropped: float = 0.0
    advantages: list[float] | None = None
    levels: list[float] | None = None
    fell_back: bool = False
    is_aborted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """One scored step of a batch, or some rows of several steps, one below the other.

    Attributes:
        token_ids: [rows, k] the candidates; base_logprobs, logprobs: [rows, k] theirs before and after the tilt, -inf
            where there is none.
        values: [rows, k, objectives] in standard deviations of the base's reward.
        kl: [rows] nats.
        dropped: [rows] the base's probability of candidates that were left out.
        is_scored: [rows] bool, False where the row fell back to the base.
        is_aborted: [rows] bool, True where the row was ended instead.
        gives_levels: [rows] bool, True where the values are expected final rewards.
        means, stds: [objectives] of the base's reward.
    """

    token_ids: Tensor
    values: Tensor
    base_logprobs: Tensor
    logprobs: Tensor
    kl: Tensor
    dropped: Tensor
    is_scored: Tensor
    is_aborted: Tensor
    gives_levels: Tensor
    means: Tensor
    stds: Tensor

    def select(self, rows: Sequence[int]) -> "StepRecord":
        """Some rows, in this order."""
        if len(rows) == len(self.kl) and all(place == row for place, row in enumerate(rows)):
            return self
        index = torch.tensor(rows, device=self.kl.device)
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
            base_logprobs=functional.pad(self.base_logprobs, (0, more), value=float("-inf")),
            logprobs=functional.pad(self.logprobs, (0, more), value=float("-inf")),
        )

    def settle(self, token_ids: Sequence[int]) -> list[TokenEntry]:
        """What the sampled token of every row did: one copy from the device, whatever the number of rows."""
        sampled = torch.tensor(token_ids, device=self.kl.device)
        hit = (self.token_ids == sampled[:, None]) & (self.base_logprobs > float("-inf"))
        objectives = self.values.shape[-1]
        place = hit.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, objectives)
        advantages = advantages_of(self.values, self.base_logprobs).gather(1, place)[:, 0]
        levels = self.values.gather(1, place)[:, 0] * self.stds + self.means
        kl, known = torch.where(self.is_scored, self.kl, 0.0), self.is_scored & hit.any(1)
        flags = torch.stack([known, known & self.gives_levels, ~self.is_scored, self.is_aborted], dim=1)
        numbers = torch.stack([kl, self.dropped], dim=1)
        columns = torch.cat([numbers, flags.float(), advantages, levels], dim=1).tolist()
        return [
            TokenEntry(
                kl=row[0],
                dropped=row[1],
                advantages=row[6 : 6 + objectives] if row[2] else None,
                levels=row[6 + objectives :] if row[3] else None,
                fell_back=bool(row[4]),
                is_aborted=bool(row[5]),
            )
            for row in columns
        ]

    def candidates(self) -> list[CandidateColumns]:
        """Every candidate of every row, none where a row fell back: three copies, whatever the number of rows."""
        base = self.base_logprobs
        counts = ((base > float("-inf")).sum(1) * self.is_scored).tolist()
        parts = [base[..., None], self.logprobs[..., None], advantages_of(self.values, base)]
        numbers = torch.cat(parts, dim=-1).float().cpu().numpy()
        token_ids = self.token_ids.int().cpu().numpy()
        return [
            CandidateColumns(token_ids[r, :count].tobytes(), numbers[r, :count].tobytes())
            for r, count in enumerate(counts)
        ]


_BY_ROW = (
    "token_ids",
    "values",
    "base_logprobs",
    "logprobs",
    "kl",
    "dropped",
    "is_scored",
    "is_aborted",
    "gives_levels",
)


def join(records: Sequence[StepRecord]) -> StepRecord:
    """One below the other, of the same objectives; the narrow ones are widened."""
    if len(records) == 1:
        return records[0]
    k = max(record.token_ids.shape[1] for record in records)
    wide = [record.widened(k) for record in records]
    return replace(wide[0], **{name: torch.cat([getattr(each, name) for each in wide]) for name in _BY_ROW})
