"""On a vocabulary small enough to enumerate, evaluating and tilting in turn reaches the closed-form optimum.

Policy evaluation of the current policy, then improvement by the tilting code that serves, with beta = 1/zeta:

    V(x) = E_pi[ r - zeta * sum over remaining tokens of log pi/pi_ref | x ],   pi'(a | x) = tilt(base, V(x a) / zeta)

must never lower J(pi) = E[r] - zeta KL(pi || pi_ref), and stand still at pi* = pi_ref exp(r / zeta) / Z.
"""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from valuemodels.tilting import Candidates, tilt

VOCAB, LENGTH = 4, 4
Policy = dict[tuple[int, ...], Tensor]


def contexts() -> list[tuple[int, ...]]:
    return [context for n in range(LENGTH) for context in product(range(VOCAB), repeat=n)]


def random_base(seed: int) -> Policy:
    generator = torch.Generator().manual_seed(seed)
    return {
        context: torch.log_softmax(torch.randn(VOCAB, generator=generator, dtype=torch.float64) * 1.5, -1)
        for context in contexts()
    }


def random_reward(seed: int) -> dict[tuple[int, ...], float]:
    generator = torch.Generator().manual_seed(seed + 1000)
    sequences = list(product(range(VOCAB), repeat=LENGTH))
    return dict(zip(sequences, torch.randn(len(sequences), generator=generator).tolist(), strict=True))


def evaluate(
    policy: Policy, base: Policy, reward: dict[tuple[int, ...], float], zeta: float
) -> dict[tuple[int, ...], float]:
    """V of every prefix under a policy, by enumeration from the last layer up; V of the empty prefix is J(policy)."""
    values: dict[tuple[int, ...], float] = dict(reward)
    for context in reversed(contexts()):
        log_ratio = policy[context] - base[context]
        after = torch.tensor([values[(*context, a)] for a in range(VOCAB)], dtype=torch.float64)
        values[context] = float((policy[context].exp() * (after - zeta * log_ratio)).sum())
    return values


def improve(base: Policy, values: dict[tuple[int, ...], float], zeta: float) -> Policy:
    """One round of the serving code's tilt over all contexts at once."""
    order = contexts()
    logits = torch.stack([base[context] for context in order])
    advantage = torch.tensor([[values[(*context, a)] for a in range(VOCAB)] for context in order], dtype=torch.float64)
    ids = torch.arange(VOCAB).expand(len(order), -1)
    rows = len(order)
    found = tilt(Candidates(ids, logits), advantage, torch.ones(rows), torch.full((rows,), 1 / zeta), None)
    return {context: torch.log_softmax(found.logprobs[i].double(), -1) for i, context in enumerate(order)}


def sequence_probabilities(policy: Policy) -> Tensor:
    sequences = product(range(VOCAB), repeat=LENGTH)
    return torch.tensor(
        [sum(policy[s[:n]][s[n]].item() for n in range(LENGTH)) for s in sequences], dtype=torch.float64
    ).exp()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zeta", [0.25, 1.0])
def test_evaluating_and_tilting_in_turn_reaches_the_kl_regularised_optimum(seed: Any, zeta: Any) -> None:
    base, reward = random_base(seed), random_reward(seed)
    policy, objective = base, []
    for _ in range(LENGTH + 1):
        values = evaluate(policy, base, reward, zeta)
        objective.append(values[()])
        policy = improve(base, values, zeta)
    # The tilt answers in float32.
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(objective))
    assert objective[-1] - objective[0] > 0.1, "the test needs room to improve"
    weights = torch.tensor([reward[s] / zeta for s in product(range(VOCAB), repeat=LENGTH)], dtype=torch.float64).exp()
    optimum = sequence_probabilities(base) * weights
    optimum /= optimum.sum()
    torch.testing.assert_close(sequence_probabilities(policy), optimum, atol=1e-6, rtol=1e-5)
    again = improve(base, evaluate(policy, base, reward, zeta), zeta)
    torch.testing.assert_close(sequence_probabilities(again), optimum, atol=1e-6, rtol=1e-5)
