"""Weights and numbers as JSON brings them. Standard library and our errors only."""

import math
from collections.abc import Sequence
from typing import Any

from server.errors import FieldError


def changed_weights(field: str, value: Any, objectives: Sequence[str]) -> dict[str, Any]:
    """Objective -> weight as it came, or None for the operator's default. Null for all of them is null for each.

    Raises:
        FieldError: it is neither an object nor null.
    """
    if value is None:
        return dict.fromkeys(objectives)
    if not isinstance(value, dict):
        allowed = f"an object from objective to number or null, or null; objectives: {', '.join(objectives)}"
        raise FieldError(field, value, allowed)
    return {name: no_giant(weight) for name, weight in value.items()}


def no_giant(value: Any) -> Any:
    """JSON integers have no limit, and float() refuses those beyond a double: to us they are infinite."""
    is_giant = isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1e300
    return math.inf if is_giant else value
