"""Preferences between replies that are there already, by a reward. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.rollouts.shards import Rollout


@dataclass(frozen=True, slots=True)
class Preference:
    """Two replies to one prompt, as token ids; the first scored more."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def preferences(replies: Sequence[Rollout], scores: Sequence[float], pairs: int) -> list[Preference]:
    """Of every prompt its best reply and its worst, its second best and its second worst, and so on.

    Args:
        pairs: at most so many a prompt; fewer where there are not enough replies, or no difference between them.
    """
    by_prompt: dict[str, list[tuple[float, Rollout]]] = {}
    for reply, score in zip(replies, scores, strict=True):
        by_prompt.setdefault(reply.prompt_id, []).append((score, reply))
    return [preference for some in by_prompt.values() for preference in _of_one(some, pairs)]


def _of_one(scored: Sequence[tuple[float, Rollout]], pairs: int) -> list[Preference]:
    ranked = sorted(scored, key=lambda each: -each[0])
    found = []
    for place in range(min(pairs, len(ranked) // 2)):
        (more, best), (less, worst) = ranked[place], ranked[-1 - place]
        if more > less:
            found.append(Preference(best.prompt_token_ids, best.output_token_ids, worst.output_token_ids))
    return found


def budget(replies: Sequence[Rollout]) -> Mapping[str, int]:
    """How much was sampled for it."""
    return {"replies": len(replies), "tokens": sum(len(reply.output_token_ids) for reply in replies)}
