"""What the documents say, and how figures look in them."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def measured(report: str) -> Any:
    """A report of the embedded model's."""
    return json.loads(text(f"docs/evaluation/embedded/{report}"))


def shown(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"


def between(estimate: dict[str, float]) -> str:
    """Of what has no sign to show."""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"
