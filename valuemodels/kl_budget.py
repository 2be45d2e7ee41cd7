"""KL divergence of a tilt from its base, and the strength that keeps it within a budget. Imports torch alone.

Shapes: rows = requests in this step, k = candidates.
"""

import torch
from torch import Tensor

_STEPS = 16
_MARGIN = 1e-7
_TINY = 1e-300


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
    goal = (budget * (1 - _MARGIN)).sqrt()
    low, high = torch.zeros_like(beta), beta
    trial = beta
    for step in range(_STEPS):
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


def shift_of(beta: Tensor | None, v: Tensor, u: Tensor | None) -> Tensor:
    """[rows, k] u + beta * v. beta: [rows], None is 1; u: None is 0."""
    free = v if beta is None else beta[:, None] * v
    return free if u is None else u + free


def _kl_and_slope(base_logprobs: Tensor, v: Tensor, beta: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
    shift = shift_of(beta, v, u)
    logprobs = torch.log_softmax(base_logprobs + shift, dim=-1)
    p = logprobs.exp()
    off_mean = v - (p * v).sum(-1, keepdim=True)
    covariance = (p * off_mean * (shift - (p * shift).sum(-1, keepdim=True))).sum(-1)
    return kl_divergence(logprobs, base_logprobs), covariance.clamp_min(_TINY)
