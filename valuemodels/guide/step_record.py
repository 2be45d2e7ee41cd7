"""One scored step of a batch, kept on the device until its tokens are known. Imports torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valuemodels.contract.trace_wire import CandidateColumns
from valuemodels.tilting import advantages_of


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One sampled token.

    Attributes:
        kl: nats.
        advantages: one an objective; None where the token was not among the scored candidates.
        levels: expected final rewards in the rewards' own units; None where scoring gives none.
        fell_back: the base's own logits were sampled from, since a value was no number.
        is_aborted: the sequence was ended for that reason.
    """

    kl: float = 0.0
    advantages: list[float] | None = None
    levels: list[float] | None = None
    fell_back: bool = False
    is_aborted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """One scored step of a batch.

    Attributes:
        token_ids: [rows, k] the candidates; base_logprobs, logprobs: [rows, k] theirs before and after the tilt, -inf
            where there is none.
        values: [rows, k, objectives] in standard deviations of the base's reward.
        kl: [rows] nats.
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
    is_scored: Tensor
    is_aborted: Tensor
    gives_levels: Tensor
    means: Tensor
    stds: Tensor

    def settle(self, rows: Sequence[int], token_ids: Sequence[int]) -> list[TokenEntry]:
        """What the sampled tokens of some rows did: one copy from the device, whatever the number of rows."""
        index = torch.tensor(rows, device=self.kl.device)
        sampled = torch.tensor(token_ids, device=self.kl.device)
        base = self.base_logprobs[index]
        hit = (self.token_ids[index] == sampled[:, None]) & (base > float("-inf"))
        objectives = self.values.shape[-1]
        place = hit.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, objectives)
        values = self.values[index]
        advantages = advantages_of(values, base).gather(1, place)[:, 0]
        levels = values.gather(1, place)[:, 0] * self.stds + self.means
        is_scored = self.is_scored[index]
        kl, known = torch.where(is_scored, self.kl[index], 0.0), is_scored & hit.any(1)
        flags = torch.stack([known, known & self.gives_levels[index], ~is_scored, self.is_aborted[index]], dim=1)
        columns = torch.cat([kl[:, None], flags.float(), advantages, levels], dim=1).tolist()
        return [
            TokenEntry(
                kl=row[0],
                advantages=row[5 : 5 + objectives] if row[1] else None,
                levels=row[5 + objectives :] if row[2] else None,
                fell_back=bool(row[3]),
                is_aborted=bool(row[4]),
            )
            for row in columns
        ]

    def candidates_of(self, rows: Sequence[int]) -> list[CandidateColumns]:
        """Every candidate of some rows, none where a row fell back: three copies, whatever the number of rows."""
        index = torch.tensor(rows, device=self.kl.device)
        base = self.base_logprobs[index]
        counts = ((base > float("-inf")).sum(1) * self.is_scored[index]).tolist()
        parts = [base[..., None], self.logprobs[index][..., None], advantages_of(self.values[index], base)]
        numbers = torch.cat(parts, dim=-1).float().cpu().numpy()
        token_ids = self.token_ids[index].int().cpu().numpy()
        return [
            CandidateColumns(token_ids[r, :count].tobytes(), numbers[r, :count].tobytes())
            for r, count in enumerate(counts)
        ]
