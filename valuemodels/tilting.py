"""The maths of one decoding step, on plain tensors. Imports torch alone.

With base logits z, temperature T, candidates C (the k largest finite z), values V_i(a) of candidate a for objective i,
weights w_i, scales s_i and strength beta (MAVIS, arXiv 2508.13415):

    pi(a) = softmax over a in C of  z_a / T + beta * v_a,      v_a = sum_i w_i s_i V_i(a)

Where the operator has pinned objectives, a part u of the tilt is fixed, and only the rest is lowered by a KL budget:

    pi(a) = softmax over a in C of  z_a / T + u_a + beta * v_a

Shapes: rows = requests in this step, k = candidates, objectives = value heads.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from valuemodels.kl_budget import beta_within_budget, kl_divergence, shift_of

NEG_INF = float("-inf")
_GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Candidates:
    """The base's most likely tokens of each row, best first.

    Attributes:
        token_ids: [rows, k] int64. Where `logits` is -inf the id is arbitrary and must not be used.
        logits: [rows, k] float32; -inf past a row's own k and where the base forbids the token. A NaN of the base's is
            no candidate, and its row no sound one.
    """

    token_ids: Tensor
    logits: Tensor

    @cached_property
    def valid(self) -> Tensor:
        """[rows, k] bool, True = a candidate."""
        return self.logits > NEG_INF


@dataclass(frozen=True)
class Tilt:
    """What one step does to each row: only what is sampled from is computed at once, the rest where somebody asks.

    Attributes:
        base_logits: [rows, k] z, -inf where there is no candidate.
        shift: [rows, k] float32 u + beta * v.
        temperature: [rows] > 0, at which sampling sees z / T + shift.
        beta: [rows] the strength used, after the KL budget; None is 1.
    """

    base_logits: Tensor
    shift: Tensor
    temperature: Tensor
    beta: Tensor | None

    @cached_property
    def logits(self) -> Tensor:
        """[rows, k] the candidates' logits to sample from, z + T * shift; -inf where there is no candidate."""
        # Two roundings: one fused operation would round by where in memory a row stands.
        return self.base_logits + self.temperature[:, None] * self.shift

    @cached_property
    def is_sound(self) -> Tensor:
        """[rows] bool: there is a candidate, and what is to be sampled from is made of finite numbers."""
        # A maximum hides -inf, and a minimum +inf; neither hides a NaN.
        return (self.logits.amax(-1) + self.shift.amin(-1)).abs() < -NEG_INF

    @property
    def base_logprobs(self) -> Tensor:
        """[rows, k] float32 log-probabilities on the candidates, before the tilt."""
        return self._logprobs[0].float()

    @property
    def logprobs(self) -> Tensor:
        """[rows, k] float32 log-probabilities on the candidates, after the tilt."""
        return self._logprobs[1].float()

    @property
    def kl(self) -> Tensor:
        """[rows] float32 KL(tilted || base on the candidates) in nats."""
        base, tilted = self._logprobs
        return kl_divergence(tilted, base).float()

    @cached_property
    def _logprobs(self) -> tuple[Tensor, Tensor]:
        base = base_logprobs_of(self.base_logits, self.temperature)
        return base, torch.log_softmax(base + self.shift.double(), dim=-1)


def select_candidates(logits: Tensor, counts: Tensor | None, width: int, limit: int) -> Candidates:
    """The largest logits of each row: `counts[r]` of them, or `width` where there are no counts.

    Which of several equal logits are taken depends on the row alone, not on its neighbours: `limit`, which never
    changes, is how many are sorted out of the vocabulary.

    Args:
        logits: [rows, vocab].
        counts: [rows] int64, 1 .. width; None where all rows ask for `width`.
        width: the largest of `counts`, known on the host; k of the result.
        limit: the most that any row may ever ask for.
    """
    top, token_ids = torch.topk(logits.float(), min(limit, logits.shape[-1]), dim=-1)
    top, token_ids = top[:, :width], token_ids[:, :width]
    if counts is not None:
        top = torch.where(torch.arange(top.shape[-1], device=logits.device) < counts[:, None], top, NEG_INF)
    return Candidates(token_ids, top)


def prune(candidates: Candidates, least: Tensor) -> Candidates:
    """The candidates whose logit lies within `least` [rows], at most 0, of the row's largest; -inf keeps all."""
    kept = candidates.logits >= candidates.logits[:, :1] + least[:, None]
    return Candidates(candidates.token_ids, torch.where(kept, candidates.logits, NEG_INF))


def dropped_mass(candidates: Candidates, kept: Candidates, temperature: Tensor) -> Tensor:
    """[rows] the base's probability, on all candidates, of those not kept. temperature: [rows] > 0."""
    p = torch.softmax(candidates.logits / temperature[:, None], dim=-1)
    return torch.where(kept.valid, 0.0, p).sum(-1).nan_to_num(0.0)


def write_tilted(
    logits: Tensor,
    index: Tensor | None,
    candidates: Candidates,
    tilted: Tensor,
    replaced: Tensor,
    before: Tensor | None = None,
) -> None:
    """Put tilted rows into the batch's logits, in place; every row that is not replaced stays as it is, bit for bit.

    Args:
        logits: [batch, vocab].
        index: [rows] which rows of the batch these are; None where they are all of them, in order.
        tilted: [rows, k] the candidates' new logits; -inf where there is no candidate.
        replaced: [rows] bool.
        before: [rows, k] what `logits` holds at `candidates.token_ids`, where that is known.
    """
    token_ids = candidates.token_ids
    limit = torch.where(replaced, NEG_INF, -NEG_INF).to(logits.dtype)
    if index is not None:
        index, own = index[:, None], limit
        limit = torch.full((logits.shape[0],), -NEG_INF, dtype=logits.dtype, device=logits.device)
        limit[index[:, 0]] = own
    if before is None:
        before = logits.gather(1, token_ids) if index is None else logits[index, token_ids]
    new = torch.where(replaced[:, None], tilted.to(logits.dtype), before)
    # A minimum, since it runs over the batch many times faster than a fill by mask.
    torch.minimum(logits, limit[:, None], out=logits)
    if index is None:
        logits.scatter_(1, token_ids, new)
    else:
        logits[index, token_ids] = new


def write_only(logits: Tensor, index: Tensor, token_ids: Tensor, replaced: Tensor) -> None:
    """Leave the rows that are replaced one token to sample, in place; every other row stays as it is, bit for bit.

    Args:
        logits: [batch, vocab].
        index: [rows] which rows of the batch these are.
        token_ids: [rows] the one token.
        replaced: [rows] bool.
    """
    rows = logits[index]
    only = torch.full_like(rows, NEG_INF).scatter_(1, token_ids[:, None], 0.0)
    logits[index] = torch.where(replaced[:, None], only, rows)


def sampling_temperature(temperature: Tensor) -> Tensor:
    """T as the tilt sees it: greedy rows (T = 0) are tilted, and their KL measured, as at T = 1."""
    return torch.where(temperature < _GREEDY_TEMPERATURE, torch.ones_like(temperature), temperature)


def base_logprobs_of(logits: Tensor, temperature: Tensor) -> Tensor:
    """[rows, k] float64 log-softmax of z / T: the KL of a near-deterministic step is a difference of large terms."""
    return torch.log_softmax(logits.double() / temperature.double()[:, None], dim=-1)


def tilt(
    candidates: Candidates,
    weighted: Tensor,
    temperature: Tensor,
    beta: Tensor | None = None,
    kl_budget: Tensor | None = None,
    pinned: Tensor | None = None,
) -> Tilt:
    """Tilt the candidates' logits by u + beta * v, with beta lowered where a row's KL budget asks for it.

    The returned logits are z + T * (u + beta * v): temperature is applied after us, so sampling sees
    z / T + u + beta * v.

    Args:
        weighted: [rows, k] v, the weighted sum of scaled values; finite where there is no candidate.
        temperature: [rows] > 0, of `sampling_temperature`.
        beta: [rows] >= 0; None is 1.
        kl_budget: [rows] nats a token, inf = none; or None where no row has one.
        pinned: [rows, k] u, like v; None is 0.
    """
    if kl_budget is not None:
        base = base_logprobs_of(candidates.logits, temperature)
        asked = torch.ones_like(kl_budget) if beta is None else beta
        fixed = None if pinned is None else pinned.double()
        beta = beta_within_budget(base, weighted.double(), asked.double(), kl_budget.double(), fixed).float()
    return Tilt(candidates.logits, shift_of(beta, weighted, pinned), temperature, beta)


def advantages_of(values: Tensor, base_logprobs: Tensor) -> Tensor:
    """Advantages: values minus their expectation under the base on the candidates, what choosing a candidate does.

    Args:
        values: [rows, k, objectives].
        base_logprobs: [rows, k], -inf outside the candidates.
    """
    weights = base_logprobs.exp()[..., None].to(values.dtype)
    safe = torch.where(weights > 0, values, torch.zeros_like(values))
    return values - (weights * safe).sum(dim=1, keepdim=True)


def weighted_values(values: Tensor, coefficients: Tensor, *, all_weigh: bool = False) -> Tensor:
    """v = sum_i w_i s_i V_i, where an objective of weight 0 has no say, not even by a NaN.

    Args:
        values: [rows, k, objectives].
        coefficients: [rows, objectives] w_i * s_i.
        all_weigh: none of the coefficients is 0.

    Returns:
        [rows, k]; NaN or infinite where a weighted value is.
    """
    coefficients = coefficients[:, None, :]
    if not all_weigh:
        values = values.masked_fill(coefficients == 0, 0.0)
    return (coefficients * values).sum(-1)
