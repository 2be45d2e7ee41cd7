"""Replies of one way of aligning at one mix, in figures. No torch, no vllm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.rollouts.scored import Scored

Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a mix.

    Attributes:
        rewards: objective -> [prompts, samples], in the reward's own units.
        kl_nats: [prompts, samples] log pi(reply) - log p(reply), of what sampled the reply and of the base, both over
            the whole vocabulary: its mean estimates the KL without bias, whatever the method.
        base_logprobs: [prompts, samples] log p(reply).
        tokens: [prompts, samples].
        texts: prompt by prompt, all samples of a prompt together.
        tokens_per_s: of replies that were told; 0 where that was not measured.
    """

    rewards: Mapping[str, Figures]
    kl_nats: Figures
    base_logprobs: Figures
    tokens: Figures
    texts: Sequence[str]
    tokens_per_s: float

    @property
    def perplexity(self) -> float:
        """Of the replies, by the base."""
        return float(np.exp(-self.base_logprobs.sum() / self.tokens.sum()))

    def chosen(self, places: NDArray[np.int64], kl_nats: float, tokens_per_s: float) -> "Measured":
        """Some samples of every prompt, by another rule than chance.

        Args:
            places: [prompts, chosen] their numbers among the prompt's samples.
        """

        def picked(figures: Figures) -> Figures:
            return np.take_along_axis(figures, places, axis=1)

        samples = self.tokens.shape[1]
        flat = (np.arange(len(places))[:, None] * samples + places).ravel()
        return Measured(
            rewards={name: picked(figures) for name, figures in self.rewards.items()},
            kl_nats=np.full(places.shape, kl_nats),
            base_logprobs=picked(self.base_logprobs),
            tokens=picked(self.tokens),
            texts=[self.texts[place] for place in flat],
            tokens_per_s=tokens_per_s,
        )


def measured(
    scored: Scored, tokens_per_s: float, kl_nats: Figures | None = None, base_logprobs: Figures | None = None
) -> Measured:
    """The figures of replies that the engine sampled with `Limits.read_top`.

    Args:
        kl_nats: of replies that were sampled otherwise than from the base or by a tilt, and base_logprobs: theirs.
    """
    shape = scored.kl_nats.shape

    def of(values: list[float]) -> Figures:
        return np.reshape(np.asarray(values, dtype=float), shape)

    # A tilt's own log-ratios are those on the candidates; sampling from these alone costs the rest.
    tilts = of([sum(reply.log_ratios) + (reply.cut_nats if reply.log_ratios else 0.0) for reply in scored.replies])
    return Measured(
        rewards=scored.rewards,
        kl_nats=tilts if kl_nats is None else kl_nats,
        base_logprobs=of([reply.base_logprob for reply in scored.replies]) if base_logprobs is None else base_logprobs,
        tokens=of([len(reply.output_token_ids) for reply in scored.replies]),
        texts=[reply.text for reply in scored.replies],
        tokens_per_s=tokens_per_s,
    )
