"""What `make audit` says of what pip-audit found."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).parents[2] / "deploy" / "audit.py")
assert _SPEC and _SPEC.loader
AUDIT = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(AUDIT)

FINE = {"name": "fine", "version": "1.0", "vulns": []}
BROKEN = {"name": "broken", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": []}]}
UNMENDED = {"name": "old", "version": "3.0", "vulns": [{"id": "PYSEC-2", "fix_versions": [], "aliases": []}]}
SKIPPED = {"name": "local", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ([FINE], ["1 packages looked up, 0 of them known to be vulnerable"]),
        (
            [FINE, BROKEN, UNMENDED, SKIPPED],
            [
                "broken 2.0: PYSEC-1, mended in 2.1",
                "old 3.0: PYSEC-2, mended in no version yet",
                "3 packages looked up, 2 of them known to be vulnerable",
                "not looked up: local",
            ],
        ),
        ([SKIPPED], ["the advisories are out of reach, or know none of the packages: nothing was looked up"]),
    ],
)
def test_what_was_found_is_said_in_words(packages: list[dict[str, Any]], said: list[str]) -> None:
    assert list(AUDIT.sentences(packages)) == said
