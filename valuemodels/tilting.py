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

NEG_INF = float("-inf")
_SOLVER_STEPS = 16
_SOLVER_MARGIN = 1e-7
_TINY = 1e-300
_GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Candidates:
    """The base's most likely tokens of each row, best first.

    Attributes:
        token_ids: [rows, k] int64. Where `logits` is -inf the id is arbitrary and must not be used.
        logits: [rows, k] float32; -inf past a row's own k and where the base forbids the token.
    """

    token_ids: Tensor
    logits: Tensor

    @cached_property
    def valid(self) -> Tensor:
        """[rows, k] bool, True = a candidate."""
        return self.logits > NEG_INF


@dataclass(frozen=True, slots=True)
class Tilt:
    """What one step did to each row.

    Attributes:
        logits: [rows, k] the candidates' logits to sample from; -inf where there is no candidate.
        kl: [rows] KL(tilted || base on the candidates) in nats, at the sampling temperature.
        beta: [rows] the strength used, after the KL budget.
        base_logprobs, logprobs: [rows, k] log-probabilities on the candidates, before and after.
    """

    logits: Tensor
    kl: Tensor
    beta: Tensor
    base_logprobs: Tensor
    logprobs: Tensor


def select_candidates(logits: Tensor, counts: Tensor, width: int, limit: int) -> Candidates:
    """The `counts[r]` largest finite logits of each row.

    Which of several equal logits are taken depends on the row alone, not on its neighbours: `limit`, which never
    changes, is how many are sorted out of the vocabulary.

    Args:
        logits: [rows, vocab].
        counts: [rows] int64, 1 .. width.
        width: the largest of `counts`, known on the host; k of the result.
        limit: the most that any row may ever ask for.
    """
    top, token_ids = torch.topk(logits.float(), min(limit, logits.shape[-1]), dim=-1)
    top, token_ids = top[:, :width], token_ids[:, :width]
    within = torch.arange(top.shape[-1], device=logits.device) < counts[:, None]
    # A NaN logit is no candidate either: it compares false.
    return Candidates(token_ids, torch.where(within & (top > NEG_INF), top, NEG_INF))


def prune(candidates: Candidates, least: Tensor) -> Candidates:
    """The candidates whose logit lies within `least` [rows], at most 0, of the row's largest; -inf keeps all."""
    kept = candidates.logits >= candidates.logits[:, :1] + least[:, None]
    return Candidates(candidates.token_ids, torch.where(kept, candidates.logits, NEG_INF))


def dropped_mass(candidates: Candidates, kept: Candidates, temperature: Tensor) -> Tensor:
    """[rows] the base's probability, on all candidates, of those not kept. temperature: [rows], 0 = greedy."""
    at = sampling_temperature(temperature)[:, None]
    p = torch.softmax(candidates.logits / at, dim=-1)
    return torch.where(kept.valid, 0.0, p).sum(-1).nan_to_num(0.0)


def write_tilted(logits: Tensor, index: Tensor, candidates: Candidates, tilted: Tensor, replaced: Tensor) -> None:
    """Put tilted rows into the batch's logits, in place; every row that is not replaced stays as it is, bit for bit.

    Args:
        logits: [batch, vocab].
        index: [rows] which rows of the batch these are.
        tilted: [rows, k] the candidates' new logits; -inf where there is no candidate.
        replaced: [rows] bool.
    """
    limit = torch.full((logits.shape[0], 1), -NEG_INF, dtype=logits.dtype, device=logits.device)
    limit[index, 0] = torch.where(replaced, NEG_INF, -NEG_INF).to(logits.dtype)
    places = (index[:, None], candidates.token_ids)
    new = torch.where(replaced[:, None], tilted.to(logits.dtype), logits[places])
    # A minimum, since it runs over the batch many times faster than a fill by mask.
    torch.minimum(logits, limit, out=logits)
    logits[places] = new


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


def tilt(
    candidates: Candidates,
    weighted: Tensor,
    temperature: Tensor,
    beta: Tensor,
    kl_budget: Tensor | None,
    pinned: Tensor | None = None,
) -> Tilt:
    """Tilt the candidates' logits by u + beta * v, with beta lowered where a row's KL budget asks for it.

    The returned logits are z + T * (u + beta * v): temperature is applied after us, so sampling sees
    z / T + u + beta * v.

    Args:
        weighted: [rows, k] v, the weighted sum of scaled values. Finite on candidates.
        temperature: [rows], 0 = greedy.
        beta: [rows] >= 0.
        kl_budget: [rows] nats a token, inf = none; or None where no row has one.
        pinned: [rows, k] u, finite on candidates; None is 0.
    """
    valid = candidates.valid
    temperature = sampling_temperature(temperature)
    # float64: the KL of a near-deterministic step is a difference of large terms.
    base = torch.log_softmax(candidates.logits.double() / temperature.double()[:, None], dim=-1)
    v = torch.where(valid, weighted.double(), 0.0)
    u = None if pinned is None else torch.where(valid, pinned.double(), 0.0)
    beta = beta.double()
    if kl_budget is not None:
        beta = beta_within_budget(base, v, beta, kl_budget.double(), u)
    shift = _shift(beta, v, u)
    logprobs = torch.log_softmax(base + shift, dim=-1)
    return Tilt(
        logits=(candidates.logits.double() + temperature.double()[:, None] * shift).float(),
        kl=kl_divergence(logprobs, base).float(),
        beta=beta.float(),
        base_logprobs=base.float(),
        logprobs=logprobs.float(),
    )


def beta_within_budget(base_logprobs: Tensor, v: Tensor, beta: Tensor, budget: Tensor, u: Tensor | None) -> Tensor:
    """A strength in [0, beta] whose KL(tilted || base) stays within the budget; 0 where the fixed part is beyond it.

    With u = 0 it is the largest one: KL(b) = b E_b[v] - log E_base[exp(b v)] is then 0 at 0 and non-decreasing. In
    general its derivative is Cov_b[v, u + b v]. For small b it is b^2 Var[v] / 2, so the search begins there, and takes
    Newton's steps on its square root, which is all but straight. A step is kept inside a shrinking bracket, and the
    bracket's lower end, which is 0 or within the budget, is the answer. Steps aim a hair below the budget: coming to
    the root from one side only, they would else never move the lower end.

    Args:
        base_logprobs: [rows, k] normalised, -inf outside the candidates.
        v: [rows, k] finite, 0 outside the candidates.
        beta: [rows] the strength asked for.
        budget: [rows] nats, inf = none.
        u: [rows, k] the fixed part of the tilt, 0 outside the candidates; None is 0.
    """
    p = base_logprobs.exp()
    variance = (p * (v - (p * v).sum(-1, keepdim=True)).square()).sum(-1).clamp_min(_TINY)
    goal = (budget * (1 - _SOLVER_MARGIN)).sqrt()
    low, high = torch.zeros_like(beta), beta
    trial = beta
    for step in range(_SOLVER_STEPS):
        kl, slope = _kl_and_slope(base_logprobs, v, trial, u)
        within = kl <= budget
        low, high = torch.where(within, trial, low), torch.where(within, high, trial)
        root = kl.sqrt()
        # The first trial is all that is asked for, the second the estimate for small strengths.
        newton = trial + 2 * root * (goal - root) / slope if step else (2 * budget / variance).sqrt()
        inside = (newton > low) & (newton < high)
        trial = torch.where(inside, newton, (low + high) / 2)
    return low


def kl_divergence(logprobs: Tensor, base_logprobs: Tensor) -> Tensor:
    """KL(p || q) in nats over the last dimension; where p is 0 the term is 0."""
    p = logprobs.exp()
    terms = torch.where(p > 0, p * (logprobs - base_logprobs), torch.zeros_like(p))
    return terms.sum(-1).clamp_min(0.0)


def advantages_of(values: Tensor, base_logprobs: Tensor) -> Tensor:
    """Advantages: values minus their expectation under the base on the candidates, what choosing a candidate does.

    Args:
        values: [rows, k, objectives].
        base_logprobs: [rows, k], -inf outside the candidates.
    """
    weights = base_logprobs.exp()[..., None].to(values.dtype)
    safe = torch.where(weights > 0, values, torch.zeros_like(values))
    return values - (weights * safe).sum(dim=1, keepdim=True)


def weighted_values(values: Tensor, coefficients: Tensor) -> Tensor:
    """v = sum_i w_i s_i V_i, where an objective of weight 0 has no say, not even by a NaN.

    Args:
        values: [rows, k, objectives].
        coefficients: [rows, objectives] w_i * s_i.

    Returns:
        [rows, k]; NaN or infinite where a weighted value is.
    """
    terms = coefficients[:, None, :] * values
    return torch.where(coefficients[:, None, :] == 0, torch.zeros_like(terms), terms).sum(-1)


def _shift(beta: Tensor, v: Tensor, u: Tensor | None) -> Tensor:
    return beta[:, None] * v if u is None else torch.addcmul(u, beta[:, None], v)


def _kl_and_slope(base_logprobs: Tensor, v: Tensor, beta: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
    shift = _shift(beta, v, u)
    logprobs = torch.log_softmax(base_logprobs + shift, dim=-1)
    p = logprobs.exp()
    off_mean = v - (p * v).sum(-1, keepdim=True)
    covariance = (p * off_mean * (shift - (p * shift).sum(-1, keepdim=True))).sum(-1)
    return kl_divergence(logprobs, base_logprobs), covariance.clamp_min(_TINY)
