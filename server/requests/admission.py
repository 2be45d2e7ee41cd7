"""What one request may cost, checked before anything of it is registered or sampled, on every generating route.

Runs in the HTTP process. No torch, no vLLM.
"""

from dataclasses import dataclass
from typing import Any

from server.errors import FieldError
from valuemodels.contract.guidance import ResolvedGuidance


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's limits on one request.

    Attributes:
        max_n: `n`.
        max_choices: prompts times `n`.
        max_weights: names in `objective_weights`.
        max_traced: tokens times choices, times `candidates` where they are told: what `return_values` may ask for.
        max_exact_tokens: of prompts that value models read: exact scoring alone reads them, once whatever `n` is.
    """

    max_n: int
    max_choices: int
    max_weights: int
    max_traced: int
    max_exact_tokens: int


class PrefillError(FieldError, ValueError):
    """A prompt is too long to be read by value models. A `ValueError`, which all of vLLM's routes answer with 400."""


class Admission:
    """Refuses what costs too much for one request."""

    def __init__(self, limits: Limits, max_model_len: int) -> None:
        """Args: `max_model_len`: how many tokens a request has at most that does not say."""
        self.limits = limits
        self._max_model_len = max_model_len

    def check_size(self, n: int, prompts: int) -> None:
        """Refuse too many choices.

        Raises:
            FieldError: naming `n`.
        """
        limits = self.limits
        if n > limits.max_n:
            raise FieldError("n", n, f"an integer from 1 to {limits.max_n}")
        if n * prompts > limits.max_choices:
            allowed = f"an n whose product with the number of prompts ({prompts}) is at most {limits.max_choices}"
            raise FieldError("n", n, allowed)

    def check_weights(self, weights: object) -> None:
        """Refuse more names than anybody needs, before each of them is looked at.

        Raises:
            FieldError: naming `objective_weights`.
        """
        if isinstance(weights, dict) and len(weights) > self.limits.max_weights:
            allowed = f"at most {self.limits.max_weights} names"
            raise FieldError("objective_weights", f"{len(weights)} names", allowed)

    def check_trace(self, resolved: ResolvedGuidance, max_tokens: int | None, choices: int) -> None:
        """Refuse to tell of more tokens and candidates than one answer should hold.

        Raises:
            FieldError: naming `return_values`.
        """
        if not resolved.shows_tokens:
            return
        tokens = self._max_model_len if max_tokens is None else min(max_tokens, self._max_model_len)
        each = resolved.candidates if resolved.trace == "candidates" else 1
        if tokens * choices * each > self.limits.max_traced:
            factors = f"{tokens} tokens x {choices} choices" + (f" x {each} candidates" if each > 1 else "")
            allowed = f"false, or at most {self.limits.max_traced} values; {factors} are {tokens * choices * each}"
            raise FieldError("return_values", "candidates" if resolved.trace == "candidates" else True, allowed)

    def check_prefill(self, resolved: ResolvedGuidance, tokens: int, field: str = "prompt") -> None:
        """Refuse what value models would read for so long that everybody else waits.

        Args:
            tokens: of the prompt.
            field: what the client can change about it.

        Raises:
            PrefillError: naming `field`.
        """
        if resolved.needs_values and resolved.scoring != "fast" and tokens > self.limits.max_exact_tokens:
            allowed = f"at most {self.limits.max_exact_tokens} tokens with {resolved.scoring} scoring"
            raise PrefillError(field, f"{tokens} tokens", allowed)


def max_tokens_of(request: Any) -> int | None:
    """What a request says of its length; None where it says nothing."""
    said = vars(request)  # reading the field as an attribute would warn of its name being an old one
    longer: int | None = said.get("max_completion_tokens")
    return said.get("max_tokens") if longer is None else longer
