"""Attention by plain products is torch's own, in whatever parts it is done."""

import pytest
import torch
from torch.nn import functional

from valuemodels.scoring import attention
from valuemodels.scoring.attention import _attend_by_products
from valuemodels.scoring.attention_plan import Run

KV_HEADS, ROWS, QUERIES, COLUMNS, HEAD_DIM, SEEN = 3, 5, 4, 48, 8, 20


@pytest.mark.parametrize("most", [1, QUERIES * COLUMNS * 2, QUERIES * COLUMNS * ROWS * 2, 10**9], ids=str)
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_parts_do_not_change_what_comes_out(most: int, scaling: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a part that is written nowhere, or masked as another row's."""
    monkeypatch.setattr(attention, "_MOST_SCORES", most)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(KV_HEADS, ROWS, QUERIES, HEAD_DIM, generator=generator)
    keys, values = torch.randn(2, KV_HEADS, ROWS, COLUMNS, HEAD_DIM, generator=generator)
    hidden = torch.rand(ROWS, 1, QUERIES, COLUMNS, generator=generator) < 0.5
    hidden[..., :SEEN] = False
    mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    nothing = torch.empty(0, dtype=torch.int64)
    run = Run(ROWS, QUERIES, nothing, nothing, mask, SEEN, None, is_all=True)
    found = _attend_by_products(run, q, keys, values, scaling)
    a, b, c = (part.transpose(0, 1) for part in (q, keys, values))
    expected = functional.scaled_dot_product_attention(a, b, c, attn_mask=mask, scale=scaling).transpose(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
