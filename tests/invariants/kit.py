"""Requests to the tiny engine, and what their traces must say."""

from itertools import count
from typing import Any

import torch

from tests.conftest import TINY_VOCAB
from valuemodels.contract.guidance import Guidance
from valuemodels.models.trunk import ValueModel

TOLERANCE = 1e-4
_ids = count()


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(2, TINY_VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def guided(trace: str = "candidates", **fields: Any) -> Guidance:
    weights = fields.pop("weights", {"warmth": 1.0, "brevity": -0.5})
    return Guidance(generation_id=f"g{next(_ids)}", weights=weights, trace=trace, **fields)  # type: ignore[arg-type]


def request(length: int, content: int, guidance: Guidance | None = None, **fields: Any) -> dict[str, Any]:
    extra = {} if guidance is None else {"guidance": guidance}
    return {
        "prompt": prompt(length, content),
        "max_tokens": 24,
        "ignore_eos": True,
        "temperature": 0.0,
        **extra,
        **fields,
    }


@torch.inference_mode()
def assert_trace_is_exact(
    model: ValueModel, prefix: list[int], output: list[int], trace: dict[str, Any], every: int = 1
) -> None:
    """Every candidate's value in the trace equals an uncached forward of prefix + candidate, centred by the base.

    Args:
        every: of so many tokens one is looked at, another one with another prefix.
    """
    assert trace["token_ids"] == output
    looked_at = list(enumerate(trace["candidates"]))[sum(prefix) % every :: every]
    for position, table in ((at, table) for at, table in looked_at if table):
        candidates = torch.tensor([entry.token_id for entry in table])
        rows = torch.tensor([prefix + output[:position]]).expand(len(candidates), -1)
        values = model(torch.cat([rows, candidates[:, None]], dim=1))[:, -1]
        base = torch.tensor([entry.logprob for entry in table]).exp()
        expected = values - (base[:, None] * values).sum(0)
        found = torch.tensor([entry.advantages for entry in table])
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
