"""Whether two greedy answers to one request are the same, up to the arithmetic's noise."""

from typing import Any

NOISE = 0.02
"""Nats between the two likeliest tokens below which a batch of another shape may round them the other way."""


def different(alone: dict[str, Any], loaded: dict[str, Any]) -> str | None:
    """Why an answer is not the one that the request gets alone; None where it is.

    Where they part, the two tokens must have been as good as equal to the request alone; what follows then says
    nothing any more.
    """
    ours, theirs = (choice["mavis"]["tokens"] for choice in (alone, loaded))
    if loaded["mavis"]["fallback_tokens"]:
        return f"{loaded['mavis']['fallback_tokens']} tokens fell back to the base"
    for at, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one["token_id"] == other["token_id"]:
            continue
        tilted = {candidate["token_id"]: candidate["tilted_logprob"] for candidate in one["candidates"]}
        gap = tilted[one["token_id"]] - tilted.get(other["token_id"], float("-inf"))
        return (
            None if gap < NOISE else f"token {at} is {other['token_id']}, alone {one['token_id']}, {gap:.3f} nats off"
        )
    if len(ours) != len(theirs):
        return f"{len(theirs)} tokens, alone {len(ours)}"
    return None
